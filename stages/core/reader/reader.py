"""The model as the reader of its own gradients: projector and slots in, a report in words out."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache

from ..engine.batches import in_batches, plan
from ..engine.prefix import takes_padding
from ..model.decoder import Decoder
from ..model.packed import packed_linears
from ..run.errors import InputError
from .card import REPLACE, Card, Injection, Lora, read_projector_card
from .gate import Gate
from .injection import ReadingPrompt, check_injection, embedding_norm, read_injected, reading_prompt
from .lora import Adapter, trained_with
from .projectors import ARCHITECTURES, Whitened, features
from .vocabulary import Tokens, in_parts
from .writing import written

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

    @classmethod
    def load(cls, decoder: Decoder, folder: Path, model: str, commit: str, seed: int | None = None) -> "Reader":
        """Loads the trained projector of a seed (None: the first) for `model` at `commit`.

        Raises:
            InputError: the folder has no projector, its card or weights do not fit, or it was made for another model,
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
                raise InputError(
                    f"{path}: {key}: made for {found!r}, the model here has {wanted!r}; run dvc repro projector"
                )
        for layer in card.layers:
            decoder.check_layer(layer, key=f"{path}: layers")
        seed = card.seeds[0] if seed is None else seed
        reader = cls.new(decoder, card, seed)
        weights = folder / f"seed_{seed}.safetensors"
        try:
            reader.kept.load_state_dict(load_file(weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{weights}: not the weights of {path} ({error}); run dvc repro projector") from error
        if reader.adapter is not None:
            reader.adapter.load(folder / f"lora_seed_{seed}.safetensors")
        return reader

    def save(self, folder: Path) -> None:
        """Writes projector and gate into an existing folder: `seed_<seed>.safetensors`, and LoRA beside it."""
        state = {name: value.contiguous() for name, value in self.kept.state_dict().items()}
        save_file(state, folder / f"seed_{self.seed}.safetensors")
        if self.adapter is not None:
            self.adapter.save(folder / f"lora_seed_{self.seed}.safetensors")

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
        self.gate.set(torch.cat([self.weigh(part)[1] for part in validation]), share)

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

    def prompt(self, host: str | None) -> ReadingPrompt:
        """The reading prompt for a host prompt (None: no host)."""
        return reading_prompt(self.decoder, host, self.card.slot_token, len(SLOTS))

    def verbaliser(self) -> AbstractContextManager[None]:
        """Within the block, the model is the one that reads and writes reports: with LoRA, where the card says so."""
        return nullcontext() if self.adapter is None else self.adapter.applied()

    def read(
        self,
        prompts: Sequence[ReadingPrompt],
        tails: Sequence[Sequence[int]],
        vectors: Float[Tensor, "batch k d_model"] | None,
    ) -> Float[Tensor, "batch position d_model"]:
        """The normed residual stream of prompts and what follows them, the vectors injected as the card says.

        See `read_injected`; None: nothing is injected. With LoRA on the verbaliser this is what it makes of the prompt,
        with vectors or without.
        """
        with self.verbaliser():
            return self._read(prompts, tails, vectors, None)

    def _read(
        self,
        prompts: Sequence[ReadingPrompt],
        tails: Sequence[Sequence[int]],
        vectors: Float[Tensor, "batch k d_model"] | None,
        cache: DynamicCache | None,
    ) -> Float[Tensor, "batch position d_model"]:
        return read_injected(self.decoder, prompts, tails, vectors, self.card.injection, self.card.norm, cache)

    def report_losses(
        self,
        hosts: Sequence[str | None],
        reports: Sequence[Sequence[int]],
        vectors: Float[Tensor, "batch k d_model"],
    ) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
        """Cross-entropy (nats) of every token of given reports, and each token's row; logits at those tokens only."""
        prompts = [self.prompt(host) for host in hosts]
        hidden = self.read(prompts, [report[:-1] for report in reports], vectors)
        lengths = torch.tensor([len(report) for report in reports], device=hidden.device)
        row = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
        column = [
            len(prompt.ids) - 1 + offset
            for prompt, report in zip(prompts, reports, strict=True)
            for offset in range(len(report))
        ]
        last = hidden[row, torch.tensor(column, device=hidden.device)]
        said = torch.tensor([token for report in reports for token in report], device=hidden.device)

        def losses(at: slice) -> Tensor:
            return torch.nn.functional.cross_entropy(self.decoder.logits(last[at]), said[at], reduction="none")

        return torch.cat(in_parts(losses, len(said), self.decoder.vocabulary)), row

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
        tokenizer = self.decoder.tokenizer
        assert tokenizer is not None
        prompts = [self.prompt(host) for host in hosts]
        lengths = [(len(prompt.ids), 0) for prompt in prompts]
        join = "any" if takes_padding(self.decoder) else "equal"
        reports = [""] * len(prompts)

        def write(rows: Int[np.ndarray, " row"]) -> tuple[Int[np.ndarray, " row"], list[tuple[int, ...]]]:
            chosen = None if vectors is None else vectors[torch.from_numpy(rows).to(vectors.device)]
            return rows, self.write([prompts[row] for row in rows], chosen, tokens)

        batches = plan(lengths, tokens=batch * max(lengths, default=(0, 0))[0], rows=batch, join=join)
        for rows, texts in in_batches(batches, write, None):
            for row, ids in zip(rows, texts, strict=True):
                reports[row] = str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
        return reports

    @torch.no_grad()
    def write(
        self, prompts: Sequence[ReadingPrompt], vectors: Float[Tensor, "batch k d_model"] | None, tokens: int
    ) -> list[tuple[int, ...]]:
        """At most `tokens` greedy tokens, one text a prompt; see `read`. The end of a text is not part of it."""
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=self.decoder.device)
        cache = DynamicCache()
        with self.verbaliser(), packed_linears(self.decoder.model):
            hidden = self._read(prompts, [()] * len(prompts), vectors, cache)
            return written(self.decoder, hidden, cache, lengths, tokens)


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
