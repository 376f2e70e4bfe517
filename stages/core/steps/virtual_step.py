"""The virtual step: h' = h + eps |h| u/|u| at the last prompt token after one block, u = -gradient; no weight changes.

The prompt before that token runs once and stays as keys and values; the token itself runs once, recorded. One sweep
through the upper blocks then carries all versions (layer, step size) of that single position side by side, each layer's
versions joining where its block ends. The clean position travels along as slot 0, so that before and after share
their rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from transformers import DynamicCache

from ..engine.batches import padded
from ..engine.continuation import greedy
from ..engine.prefix import Padding, Prefix, fork, over_prefixes
from ..engine.replay import Replay, check_slots, record
from ..engine.samples import BadRowsError, Sample, check_layers, check_samples
from ..model.decoder import Decoder
from ..run.errors import InputError
from .shifts import measure_shifts, named_tokens

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class ShiftBatch:
    """Virtual steps of one batch, in the order of `rows`; layers and step sizes in the order asked for.

    Attributes:
        rows: indices into the samples.
        up_ids, up_shifts: tokens whose log-probability at the answer position rises most, and by how much (nats),
            largest first. down_ids, down_shifts: those that fall most, most negative first.
        target_before, target_after: log-probability of the target's first token at the answer position, nats.
        answer_before, answer_after: the same of the answer; NaN where there is none.
        kl: KL(after || before) of the two next-token distributions, nats.
        target_rank: rank of the target's first token after, 1 being the most likely token.
        continuation_before: what the model says after the prompt (greedy): one tuple of ids a row.
        continuation_after: the same with the injection in place: [row][layer][step].
    """

    rows: Int[np.ndarray, " b"]
    up_ids: Int[np.ndarray, "b layer step top"]
    up_shifts: Float32[np.ndarray, "b layer step top"]
    down_ids: Int[np.ndarray, "b layer step top"]
    down_shifts: Float32[np.ndarray, "b layer step top"]
    target_before: Float32[np.ndarray, " b"]
    target_after: Float32[np.ndarray, "b layer step"]
    answer_before: Float32[np.ndarray, " b"]
    answer_after: Float32[np.ndarray, "b layer step"]
    kl: Float32[np.ndarray, "b layer step"]
    target_rank: Int[np.ndarray, "b layer step"]
    continuation_before: list[Tokens]
    continuation_after: list[list[list[Tokens]]]


def virtual_steps(
    decoder: Decoder,
    samples: Sequence[Sample],
    gradients: Float[np.ndarray, "n layer d_model"],
    layers: Sequence[int],
    step_sizes: Sequence[float],
    *,
    top_tokens: int,
    continuation_tokens: int,
    advance: Callable[[int], None] | None = None,
    tokens: int | None = None,
) -> Iterator[ShiftBatch]:
    """Yields the virtual steps of all samples, in batches of like length and so in another order than the samples'.

    Args:
        samples: prompts, targets and answers, in the order of `gradients`.
        gradients: raw gradients (see `activation_gradients`). A row of zeros has no direction: its shifts are zero.
        layers: 0-based block indices, in the order of the gradients' second axis. Each step injects at one layer only.
        step_sizes: epsilon: length of the step as a fraction of the residual stream's norm.
        top_tokens: how many tokens up and down are listed.
        continuation_tokens: most greedy tokens before and after; 0: none. The end of the text stops one and is dropped.
        advance, tokens: see `over_prefixes`.

    Raises:
        BadRowsError: rows cannot be measured (see `check_samples`), or their gradient or result is not finite.
        InputError: a layer that the model does not have; gradients of another shape; no step size, or one that is not
            positive and finite; more top tokens than the vocabulary has.
    """
    steps = Steps(decoder, layers, step_sizes, top_tokens, continuation_tokens)
    check_samples(decoder, samples)
    wanted = (len(samples), len(layers), decoder.d_model)
    if gradients.shape != wanted:
        raise InputError(f"gradients: found shape {gradients.shape}, wanted {wanted}")
    finite = np.isfinite(gradients).all((1, 2))
    if not finite.all():
        raise BadRowsError("gradient is not finite", np.flatnonzero(~finite).tolist())
    yield from over_prefixes(
        decoder,
        samples,
        lambda batch, rows, prefix: steps.take(batch, gradients[rows], rows, prefix),
        follow=lambda sample: 0,
        versions=steps.versions,
        advance=advance,
        tokens=tokens,
    )


@dataclass(frozen=True)
class Steps:
    """The settings of `virtual_steps`, checked, and the computation for one batch."""

    decoder: Decoder
    layers: Sequence[int]
    step_sizes: Sequence[float]
    top_tokens: int
    continuation_tokens: int

    def __post_init__(self) -> None:
        check_layers(self.decoder, self.layers)
        if not self.step_sizes or not all(0 < size < float("inf") for size in self.step_sizes):
            found = list(self.step_sizes)
            raise InputError(f"step_sizes: found {found}, wanted at least one, each positive and finite")
        if not 1 <= self.top_tokens <= (most := named_tokens(self.decoder)):
            raise InputError(f"top_tokens: found {self.top_tokens}, wanted 1 to {most} (the vocabulary)")

    @property
    def versions(self) -> int:
        """Number of versions of the last prompt token in a row, the clean one included."""
        return 1 + len(self.layers) * len(self.step_sizes)

    @torch.no_grad()
    def take(
        self,
        batch: Sequence[Sample],
        gradients: Float[np.ndarray, "b layer d_model"],
        rows: Int[np.ndarray, " b"],
        prefix: Prefix,
    ) -> ShiftBatch:
        """The virtual steps of one batch, whose prefixes have been run.

        Raises:
            BadRowsError: a shift is not finite.
            InputError: the model's blocks do not replay (see `Replay.check`).
        """
        decoder = self.decoder
        # The sweep's order is by ascending layer; the caller's order is as asked.
        steps = len(self.step_sizes)
        place = [1 + sorted(self.layers).index(layer) * steps + step for layer in self.layers for step in range(steps)]
        check_slots(decoder, [sample.prompt for sample in batch], prefix, self.versions)
        replay = record(decoder, padded([sample.prompt[-1:] for sample in batch], decoder.device), prefix)
        swept, cache = self._sweep(replay, gradients)
        normed = decoder.norm(swept)
        replay.check(normed[:, :1])
        still = torch.from_numpy(~gradients.any(-1)).to(normed)
        shifts = measure_shifts(
            decoder,
            normed[:, 0],
            normed[:, place],
            still.repeat_interleave(steps, dim=1),
            torch.tensor([sample.target[0] for sample in batch], device=normed.device),
            torch.tensor([sample.answer[0] if sample.answer else -1 for sample in batch], device=normed.device),
            self.top_tokens,
        )
        firsts = torch.cat([shifts.pop("top_before")[:, None], shifts.pop("top")], dim=1)
        texts = self._continuations(replay, cache, [0, *place], firsts)
        grid = (len(self.layers), steps)
        result = ShiftBatch(
            rows=rows,
            **{
                name: (found if found.dim() == 1 else found.unflatten(1, grid)).cpu().numpy()
                for name, found in shifts.items()
            },
            continuation_before=[text[0] for text in texts],
            continuation_after=[
                [text[start : start + steps] for start in range(1, self.versions, steps)] for text in texts
            ],
        )
        finite = np.isfinite(result.kl).all((1, 2)) & np.isfinite(result.up_shifts).all((1, 2, 3))
        if not finite.all():
            raise BadRowsError("shift is not finite", rows[~finite].tolist())
        return result

    def _sweep(
        self, replay: Replay, gradients: Float[np.ndarray, "b layer d_model"]
    ) -> tuple[Float[Tensor, "b slot d_model"], DynamicCache]:
        """The residual stream after the last block: slot 0 clean, then h + eps |h| u/|u| (layer ascending, step size).

        A gradient of zeros gives the clean stream.
        """
        # In float64, where squares of tiny gradients do not vanish.
        norms = np.linalg.norm(gradients.astype(np.float64), axis=-1, keepdims=True)
        directions = torch.from_numpy(-gradients / np.where(norms == 0, 1.0, norms))
        lowest, cache = min(self.layers), fork(replay.prefix.cache)
        slots = replay.streams[lowest]
        for layer in range(lowest, self.decoder.n_layers):
            if layer > lowest:
                slots = replay.block(layer, slots, cache)
            if layer in self.layers:
                clean = slots[:, :1]
                norm = torch.linalg.vector_norm(clean, dim=-1, keepdim=True)
                sizes = torch.tensor(list(self.step_sizes)).to(clean)[:, None]
                direction = directions[:, [self.layers.index(layer)]].to(clean)
                slots = torch.cat([slots, clean + sizes * (norm * direction)], dim=1)
        return slots, cache

    def _continuations(
        self, replay: Replay, swept: DynamicCache, slots: Sequence[int], firsts: Int[Tensor, "b version"]
    ) -> list[list[Tokens]]:
        """Greedy continuations of each row's versions, with the injected position's keys and values."""
        if not self.continuation_tokens:
            return [[()] * len(slots) for _ in range(len(firsts))]
        ascending, steps = sorted(self.layers), len(self.step_sizes)

        def slot_in(block: int, slot: int) -> int:
            # A slot exists above its layer only; at and below it the position is the clean one.
            return slot if slot and block > ascending[(slot - 1) // steps] else -1

        chosen = [[slot_in(block, slot) for slot in slots] for block in range(self.decoder.n_layers)]
        lengths = replay.prefix.padding.lengths.repeat_interleave(len(slots))
        padding = Padding(replay.prefix.padding.width, lengths)
        caches = replay.caches_of(swept, chosen)
        texts = greedy(self.decoder, caches, padding, firsts.flatten(), self.continuation_tokens)
        return [texts[start : start + len(slots)] for start in range(0, len(texts), len(slots))]
