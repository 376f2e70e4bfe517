"""The kinds of dictionary: one function each, from what a layer's activations and gradients are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ..model.decoder import Decoder
from ..model.opening import ModelCard
from ..reader.vocabulary import final_gain
from . import contrasts
from .dictionary import Dictionary, plain, random_directions
from .directions import principal
from .naming import named
from .sparse_autoencoder import trained

PRINCIPAL = 32
"""Principal directions, each of which is a feature both ways."""


@dataclass(frozen=True)
class Material:
    """What dictionaries of one layer and place are made from: all of it of the train split.

    Attributes:
        prompts: the distinct prompts; activations: there, of each of them.
        streams: activations at all places, each once.
        corrections: rows of the prompts table; gradients: there, of each of them, none of them zero.
        contrasts: the files of contrasts that are wanted.
        seed: of what is drawn.
    """

    decoder: Decoder
    card: ModelCard
    layer: int
    prompts: pl.DataFrame
    activations: Float[Tensor, "prompt d_model"]
    streams: Float[Tensor, "stream d_model"]
    corrections: pl.DataFrame
    gradients: Float[Tensor, "correction d_model"]
    contrasts: Sequence[contrasts.Contrasts]
    seed: int

    def plain(self, kind: str, directions: Float[Tensor, "feature d_model"]) -> Dictionary:
        """The dictionary of some directions, active above the mean activation."""
        return plain(kind, self.card, self.layer, directions, self.activations.mean(0))

    def named(self, dictionary: Dictionary) -> Dictionary:
        """The dictionary with names from what activates its features, or its own, and their scores."""
        names, scores = named(self.prompts, dictionary.activations(self.activations), dictionary.names)
        return replace(dictionary, names=names, scores=scores)


def sparse_autoencoder(given: Material) -> Dictionary:
    """A sparse autoencoder of the activations at all places."""
    return trained(given.streams, given.card, given.layer, given.seed)


def differences(given: Material) -> Dictionary:
    """Differences of mean activations, of all files of contrasts."""
    found = []
    for file in given.contrasts:
        found += contrasts.by_column(file.each, given.prompts, given.activations) if file.each else []
        found += contrasts.by_texts(given.decoder, file, given.corrections, given.layer)
    names, directions = zip(*found, strict=True)
    return replace(given.plain("differences of means", torch.stack(directions)), names=names)


def principal_updates(given: Material) -> Dictionary:
    """The principal directions of the updates, at length 1, of the train split; both ways along each."""
    found = principal(torch.nn.functional.normalize(given.gradients, dim=-1), PRINCIPAL)
    return given.plain("principal directions", torch.cat([found, -found]))


def unembedding(given: Material) -> Dictionary:
    """The direction of each token's logit: the head's row times the final norm's gain."""
    rows = given.decoder.head.get_parameter("weight").detach().float()
    tokenizer = given.decoder.tokenizer
    names = [{"token": str(tokenizer.decode([token])).strip()} if tokenizer else {} for token in range(len(rows))]
    return replace(given.plain("unembedding", (rows * final_gain(given.decoder)).cpu()), names=names)


def random(given: Material, count: int) -> Dictionary:
    """As many directions that stand for nothing: the floor of any dictionary of this size."""
    return given.plain("random", random_directions(given.seed, given.layer, count, given.card.d_model))


KINDS: dict[str, Callable[[Material], Dictionary]] = {
    "sparse autoencoder": sparse_autoencoder,
    "differences of means": differences,
    "principal directions": principal_updates,
    "unembedding": unembedding,
}
SEEDED = ("sparse autoencoder",)
"""Those that are drawn anew with each seed."""
