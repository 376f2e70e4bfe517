"""The model as the reader of its own gradients: projector and slots in, a report in words out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache

from stages.core.errors import explain
from stages.core.files import read_json
from stages.core.neural.decoder import Decoder
from stages.core.neural.engine.batches import in_batches, plan
from stages.core.neural.engine.continuation import greedy
from stages.core.neural.engine.packed import packed_linears
from stages.core.neural.engine.prefix import Padding, takes_padding
from stages.core.neural.injection import ReadingPrompt, embedding_norm, reading_prompt, replace_slots
from stages.core.neural.projectors import ARCHITECTURES, features

SLOTS = ("strength", "moved_to", "moved_from")
"""What each slot is there to hold, in order."""


class Card(BaseModel):
    """How a projector is to be used: what it was made for and what it was made from. Saved beside its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    architecture: str
    width: int
    layers: tuple[int, ...]
    d_model: int
    reference: tuple[float, ...]  # median |g| of the training gradients, a layer
    slot_token: str
    sharpness: float  # how strongly a slot's vector is drawn to the nearest token embeddings
    norm: float  # slots are replaced by vectors of this norm
    model: str
    commit: str
    held_out_domains: tuple[str, ...]
    seeds: tuple[int, ...]  # one projector each
    gates: tuple[float, ...]  # of each: least confidence at which a pressure is reported


class Reader:
    """A frozen model that reads gradients through a projector."""

    def __init__(self, decoder: Decoder, projector: nn.Module, card: Card, seed: int, gate: float) -> None:
        self.decoder, self.projector, self.card, self.seed, self.gate = decoder, projector, card, seed, gate
        self.reference = torch.tensor(card.reference, device=decoder.device)
        tokens = torch.arange(len(decoder.tokenizer or ()), device=decoder.device)
        self.tokens = torch.nn.functional.normalize(decoder.embed(tokens).float(), dim=-1)
        self.silence = decoder.continuation("no")[0]

    @classmethod
    def new(cls, decoder: Decoder, card: Card, seed: int) -> "Reader":
        """A reader with an untrained projector and an open gate; the seed gives its weights.

        Raises:
            ValueError: the architecture is unknown; names those that are known.
        """
        if card.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"params.yaml: projector.architecture: found {card.architecture!r}, wanted one of {known}")
        torch.manual_seed(seed)
        projector = ARCHITECTURES[card.architecture](len(card.layers), card.d_model, len(SLOTS), card.width)
        return cls(decoder, projector.to(decoder.device), card, seed, gate=0.0)

    @classmethod
    def load(cls, decoder: Decoder, folder: Path, model: str, commit: str, seed: int | None = None) -> "Reader":
        """Loads the trained projector of a seed (None: the first) for `model` at `commit`.

        Raises:
            ValueError: the folder has no projector, its card or weights do not fit, or it was made for another model,
                commit or width.
        """
        path = folder / "projector.json"
        card = read_projector_card(folder)
        for key, found, wanted in (
            ("model", card.model, model),
            ("commit", card.commit, commit),
            ("d_model", card.d_model, decoder.d_model),
        ):
            if found != wanted:
                raise ValueError(
                    f"{path}: {key}: made for {found!r}, the model here has {wanted!r}; run dvc repro projector"
                )
        for layer in card.layers:
            decoder.check_layer(layer, key=f"{path}: layers")
        seed = card.seeds[0] if seed is None else seed
        reader = cls.new(decoder, card, seed)
        reader.gate = card.gates[card.seeds.index(seed)]
        weights = folder / f"seed_{seed}.safetensors"
        try:
            reader.projector.load_state_dict(load_file(weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{weights}: not the weights of {path} ({error}); run dvc repro projector") from error
        reader.projector.eval()
        return reader

    def save(self, folder: Path) -> None:
        """Writes the weights, `seed_<seed>.safetensors`, into an existing folder."""
        state = {name: value.contiguous() for name, value in self.projector.state_dict().items()}
        save_file(state, folder / f"seed_{self.seed}.safetensors")

    def project(self, gradients: Float[Tensor, "batch layer d_model"]) -> Float[Tensor, "batch k d_model"]:
        """What the projector makes of these gradients, before it's sharpened."""
        return self.projector(*features(gradients.to(self.decoder.device), self.reference))

    def naming(self, vectors: Float[Tensor, "batch k d_model"]) -> Float[Tensor, "batch k vocabulary"]:
        """Scores (logits) of the model's tokens: sharpness times the cosine of a vector to their embeddings."""
        return self.card.sharpness * torch.nn.functional.normalize(vectors, dim=-1) @ self.tokens.T

    def sharpen(self, vectors: Float[Tensor, "batch k d_model"]) -> Float[Tensor, "batch k d_model"]:
        """The mean of the token embeddings (each of norm 1), weighted by the softmax of `naming`.

        The model's own vocabulary as a prior: a slot holds near words, not a direction between all of them.
        """
        return self.naming(vectors).softmax(-1) @ self.tokens

    def confidence(self, vectors: Float[Tensor, "batch k d_model"]) -> Float[Tensor, " batch"]:
        """How clearly an entity is named: the largest probability of a token (but "no") over the two entity slots.

        `vectors` are those of `project`, before they're sharpened. Sign flips leave it unchanged in mirror_mlp.
        """
        named = self.naming(vectors[:, 1:]).softmax(-1)
        named[..., self.silence] = 0
        return named.amax((1, 2))

    def fill(
        self, gradients: Float[Tensor, "batch layer d_model"]
    ) -> tuple[Float[Tensor, "batch k d_model"], Float[Tensor, " batch"]]:
        """What goes into the slots for these gradients (their norm is set by the injection), and the confidence.

        Where the confidence is below the gate, the first slot holds the word "no": the model is told that nothing is
        felt, whatever the other slots hold, and reports no pressure.
        """
        raw = self.project(gradients)
        filled, confidence = self.sharpen(raw), self.confidence(raw)
        first = torch.where((confidence < self.gate)[:, None], self.tokens[self.silence], filled[:, 0])
        return torch.cat([first[:, None], filled[:, 1:]], 1), confidence

    def vectors(self, gradients: Float[Tensor, "batch layer d_model"]) -> Float[Tensor, "batch k d_model"]:
        """What goes into the slots, without the confidence."""
        return self.fill(gradients)[0]

    def prompt(self, host: str | None) -> ReadingPrompt:
        """The reading prompt for a host prompt (None: no host)."""
        return reading_prompt(self.decoder, host, self.card.slot_token, len(SLOTS))

    def embed(
        self,
        prompts: Sequence[ReadingPrompt],
        tails: Sequence[Sequence[int]],
        vectors: Float[Tensor, "batch k d_model"] | None,
    ) -> tuple[Float[Tensor, "batch position d_model"], list[int]]:
        """Embeddings of prompts and what follows them, right-padded, with the slots replaced; and each row's length.

        `vectors` None: nothing is injected; the slots keep the slot token's own embedding.
        """
        rows = [[*prompt.ids, *tail] for prompt, tail in zip(prompts, tails, strict=True)]
        width = max(map(len, rows))
        embeds = self.decoder.embed(torch.tensor([row + [0] * (width - len(row)) for row in rows]))
        if vectors is not None:
            slots = torch.tensor([prompt.slots for prompt in prompts], device=embeds.device)
            embeds = replace_slots(embeds, slots, vectors, self.card.norm)
        return embeds, [len(row) for row in rows]

    @torch.no_grad()
    def report(
        self,
        hosts: Sequence[str | None],
        gradients: Float[Tensor, "batch layer d_model"] | None,
        tokens: int,
        batch: int = 256,
    ) -> list[str]:
        """Greedy reports of at most `tokens` tokens, one a host prompt; `gradients` None: without injection."""
        vectors = None
        if gradients is not None:
            vectors = torch.cat([self.vectors(part) for part in gradients.split(batch)])
        return self.report_vectors(hosts, vectors, tokens, batch)

    @torch.no_grad()
    def report_vectors(
        self,
        hosts: Sequence[str | None],
        vectors: Float[Tensor, "batch k d_model"] | None,
        tokens: int,
        batch: int = 256,
    ) -> list[str]:
        """The same with the slots' vectors given; None: nothing is injected."""
        prompts = [self.prompt(host) for host in hosts]
        lengths = [(len(prompt.ids), 0) for prompt in prompts]
        join = "any" if takes_padding(self.decoder) else "equal"
        reports = [""] * len(prompts)

        def write(rows: Int[np.ndarray, " row"]) -> tuple[Int[np.ndarray, " row"], list[str]]:
            chosen = None if vectors is None else vectors[torch.from_numpy(rows).to(vectors.device)]
            return rows, self._write([prompts[row] for row in rows], chosen, tokens)

        batches = plan(lengths, tokens=batch * max(lengths, default=(0, 0))[0], rows=batch, join=join)
        for rows, texts in in_batches(batches, write, None):
            for row, text in zip(rows, texts, strict=True):
                reports[row] = text
        return reports

    def _write(
        self, prompts: Sequence[ReadingPrompt], vectors: Float[Tensor, "batch k d_model"] | None, tokens: int
    ) -> list[str]:
        """Greedy text of at most `tokens` tokens, one a prompt."""
        tokenizer = self.decoder.tokenizer
        assert tokenizer is not None
        embeds, found = self.embed(prompts, [()] * len(prompts), vectors)
        lengths, cache = torch.tensor(found, device=embeds.device), DynamicCache()
        with packed_linears(self.decoder.model):
            hidden = self.decoder.body(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
        last = hidden[torch.arange(len(found), device=hidden.device), lengths - 1]
        padding = lay_right(cache, lengths)
        texts = greedy(self.decoder, cache, padding, self.decoder.logits(last).argmax(-1), tokens)
        return [str(tokenizer.decode(list(text), skip_special_tokens=True)).strip() for text in texts]


def lay_right(cache: DynamicCache, lengths: Int[Tensor, " row"]) -> Padding:
    """Moves each row's keys and values, which begin at 0, to the cache's right end, where further tokens follow.

    Returns:
        How the rows lie then, without their last token, as `greedy` takes it.
    """
    width = int(lengths.max())
    shift = width - lengths[:, None]
    if bool(shift.any()):
        origin = (torch.arange(width, device=lengths.device) - shift).clamp_min(0)
        rows = torch.arange(len(lengths), device=lengths.device)[:, None]
        for layer in cache.layers:
            for name in ("keys", "values"):  # [row, head, token, width]
                setattr(layer, name, getattr(layer, name).transpose(1, 2)[rows, origin].transpose(1, 2))
    return Padding(width - 1, lengths - 1)


def read_projector_card(folder: Path) -> Card:
    """Reads how a projector is to be used.

    Raises:
        ValueError: `projector.json` is missing or broken.
    """
    path = folder / "projector.json"
    try:
        return Card.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(explain(str(path), error)) from error


def new_card(decoder: Decoder, **settings: object) -> Card:
    """A card for a projector of this model, with the norm that its embeddings have."""
    return Card.model_validate({**settings, "d_model": decoder.d_model, "norm": embedding_norm(decoder)})
