"""The model as the reader of its own gradients: projector and slots in, a report in words out."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..model.decoder import Decoder
from ..run.errors import InputError
from .card import REPLACE, Card, Injection, Lora
from .gate import Gate
from .injection import check_injection, embedding_norm
from .lora import Adapter, trained_with
from .projectors import ARCHITECTURES, Whitened, features
from .vocabulary import Tokens, in_parts

SLOTS = ("strength", "moved_to", "moved_from")
"""What each slot is there to hold, in order."""


class Reader:
    """A frozen model that reads gradients through a projector, with LoRA on the verbaliser or (most often) without.

    Attributes:
        trained: the module of everything that training changes: the projector, and the LoRA weights where there are.
    """

    def __init__(
        self, decoder: Decoder, projector: nn.Module, card: Card, seed: int, adapter: Adapter | None = None
    ) -> None:
        self.decoder, self.projector, self.card, self.seed = decoder, projector, card, seed
        self.adapter, self.trained = adapter, trained_with(projector, adapter).eval()
        self.reference = torch.tensor(card.reference, device=decoder.device)
        self.tokens = Tokens(decoder)
        self.numbers = len(SLOTS) * len(self.tokens)
        self.silence = decoder.continuation("no")[0]
        self.gate = Gate(card.d_model, len(card.layers), self.silence).to(decoder.device)
        self.kept = nn.ModuleDict({"projector": projector, "gate": self.gate})

    @classmethod
    def new(cls, decoder: Decoder, card: Card, seed: int) -> "Reader":
        """A reader with an untrained projector and an open gate; the seed gives its weights.

        Raises:
            InputError: the architecture is unknown, names those that are known; see `check_injection`.
        """
        if card.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise InputError(f"params.yaml: projector.architecture: found {card.architecture!r}, wanted one of {known}")
        check_injection(decoder, card.injection)
        torch.manual_seed(seed)
        projector = ARCHITECTURES[card.architecture](len(card.layers), card.d_model, len(SLOTS), card.width)
        if card.whiten:
            projector = Whitened(projector, len(card.layers) * card.d_model)
        adapter = None if card.lora_on_the_verbaliser is None else Adapter(decoder, card.lora_on_the_verbaliser)
        return cls(decoder, projector.to(decoder.device), card, seed, adapter)

    def project(self, gradients: Float[Tensor, "batch layer d_model"]) -> Float[Tensor, "batch k d_model"]:
        """What the projector makes of these gradients, before it's sharpened."""
        return self.projector(*features(gradients.to(self.decoder.device), self.reference))

    def fit_whitening(self, blocks: Iterable[Float[Tensor, "_ layer d_model"]]) -> None:
        """Takes the whitening, where the card asks for one, from training gradients, some at a time."""
        if isinstance(self.projector, Whitened):
            self.projector.fit(features(block, self.reference.cpu())[0] for block in blocks)

    def naming(self, vectors: Float[Tensor, "batch k d_model"]) -> Float[Tensor, "batch k vocabulary"]:
        """Scores (logits) of the model's tokens: sharpness times the cosine of a vector to their embeddings."""
        return self.card.sharpness * self.tokens.cosines(vectors)

    def sharpen(self, scores: Float[Tensor, "batch k vocabulary"]) -> Float[Tensor, "batch k d_model"]:
        """The mean of the token embeddings (each of norm 1), weighted by the softmax of the scores of `naming`.

        The model's own vocabulary as a prior: a slot holds near words, not a direction between all of them.
        """
        return self.tokens.mean(scores.softmax(-1))

    def sharpened(self, vectors: Float[Tensor, "batch k d_model"]) -> Float[Tensor, "batch k d_model"]:
        """What the slots hold for these vectors of the projector: `sharpen` of `naming`, some rows at a time."""
        parts = in_parts(lambda at: self.sharpen(self.naming(vectors[at])), len(vectors), self.numbers)
        return torch.cat(parts)

    def weigh(
        self, gradients: Float[Tensor, "batch layer d_model"]
    ) -> tuple[Float[Tensor, "batch k d_model"], Float[Tensor, " batch"]]:
        """What the slots would hold for these gradients, and the gate's evidence that they are any."""

        def part(at: slice) -> tuple[Tensor, Tensor]:
            directions, strength = features(gradients[at].to(self.decoder.device), self.reference)
            scores = self.naming(self.projector(directions, strength))
            slots = self.sharpen(scores)
            return slots, self.gate.evidence(scores / self.card.sharpness, slots, directions)

        slots, evidence = zip(*in_parts(part, len(gradients), self.numbers), strict=True)
        return torch.cat(slots), torch.cat(evidence)

    @torch.no_grad()
    def set_gate(
        self,
        training: Iterable[Float[Tensor, "_ layer d_model"]],
        validation: Iterable[Float[Tensor, "_ layer d_model"]],
        share: float,
    ) -> None:
        """Sets the gate: what explains directions from training gradients, the threshold from validation gradients.

        Both come some at a time.
        """
        device = self.decoder.device
        self.gate.explain((self.weigh(part)[0], features(part.to(device), self.reference)[0]) for part in training)
        evidence = [value for part in validation for value in self.weigh(part)[1].tolist()]
        self.gate.set(torch.tensor(evidence, device=device), share)

    def fill(
        self, gradients: Float[Tensor, "batch layer d_model"]
    ) -> tuple[Float[Tensor, "batch k d_model"], Float[Tensor, " batch"]]:
        """What goes into the slots for these gradients (their norm is set by the injection), and the confidence.

        Where the confidence is below 0.5, the first slot holds the word "no": the model is told that nothing is felt,
        whatever the other slots hold, and reports no pressure.
        """
        slots, evidence = self.weigh(gradients)
        confidence = self.gate.confidence(evidence)
        first = torch.where((confidence < 0.5)[:, None], self.tokens[self.silence], slots[:, 0])
        return torch.cat([first[:, None], slots[:, 1:]], 1), confidence

    def vectors(self, gradients: Float[Tensor, "batch layer d_model"]) -> Float[Tensor, "batch k d_model"]:
        """What goes into the slots, without the confidence."""
        return self.fill(gradients)[0]

    def verbaliser(self) -> AbstractContextManager[None]:
        """Within the block, the model is the one that reads and writes reports: with LoRA, where the card says so."""
        return nullcontext() if self.adapter is None else self.adapter.applied()


def new_card(
    decoder: Decoder,
    *,
    injection: Injection = REPLACE,
    whiten: bool = False,
    lora_on_the_verbaliser: Lora | None = None,
    **settings: object,
) -> Card:
    """A card for a projector of this model, with the norm that its embeddings have."""
    how = {"injection": injection, "whiten": whiten, "lora_on_the_verbaliser": lora_on_the_verbaliser}
    return Card.model_validate({**settings, **how, "d_model": decoder.d_model, "norm": embedding_norm(decoder)})
