"""Activation gradients: dL/dh at some places after a block, with L = -log p(target | prompt) in nats.

Only what is needed is computed. The prompt up to the first place (its last token, or the subject's) runs once without
a graph and stays as keys and values; the rest of it and the target (the suffix) run through the lower blocks without a
graph, since nothing there requires one; the residual stream after the lowest wanted layer is made a leaf, and one
backward pass from the loss gives every wanted layer's gradient at every place. Logits are made at answer positions
only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from ..data.places import FIRST
from ..model.decoder import Decoder, residual, with_residual
from .batches import padded
from .prefix import Prefix, over_prefixes, read_on
from .samples import BadRowsError, Sample, check_layers, check_samples


@dataclass(frozen=True)
class GradientBatch:
    """Gradients, activations and log-probabilities of one batch, in the order of `rows`.

    Attributes:
        rows: indices into the samples.
        gradient: dL/dh (raw; the update direction is minus this), nats per unit of the residual stream: a vector for
            each layer at the first place, then for each at the next. Zeros where the target is too short for a place.
        activation: h, the residual stream there after the block.
        target_logprob: log p(target | prompt), summed over the target's tokens, nats: minus the loss.
        answer_logprob: the same of the answer; NaN where there is none.
        top_token: the token that the model finds most likely after the prompt.
    """

    rows: Int[np.ndarray, " b"]
    gradient: Float32[np.ndarray, "b vector d_model"]
    activation: Float32[np.ndarray, "b vector d_model"]
    target_logprob: Float32[np.ndarray, " b"]
    answer_logprob: Float32[np.ndarray, " b"]
    top_token: Int[np.ndarray, " b"]


def activation_gradients(
    decoder: Decoder,
    samples: Sequence[Sample],
    layers: Sequence[int],
    places: Sequence[str] = (FIRST,),
    *,
    advance: Callable[[int], None] | None = None,
    tokens: int | None = None,
) -> Iterator[GradientBatch]:
    """Yields the gradients of all samples, in batches of like length and so in another order than the samples'.

    Args:
        layers: 0-based block indices, in the order wanted.
        places: names of places (see `places`), in the order wanted; all are of one loss and one backward pass.
        advance, tokens: see `over_prefixes`.

    Raises:
        BadRowsError: rows cannot be measured (see `check_samples`), before the first batch; or their loss or gradient
            is not finite, when their batch is reached.
        InputError: a layer that the model does not have, or one twice.
    """
    check_layers(decoder, layers)
    check_samples(decoder, samples, places)
    yield from over_prefixes(
        decoder,
        samples,
        lambda batch, rows, prefix: measure(decoder, batch, rows, layers, prefix, places),
        follow=lambda sample: len(sample.target) - 1,
        versions=max((sample.suffix(places) for sample in samples), default=1),
        advance=advance,
        tokens=tokens,
        places=places,
    )


def gradients_of(
    decoder: Decoder, samples: Sequence[Sample], layers: Sequence[int], places: Sequence[str]
) -> tuple[Float32[np.ndarray, "sample vector d_model"], Float32[np.ndarray, " sample"]]:
    """The gradients and log p(target | prompt) of a `GradientBatch`, of all samples in their order.

    Raises:
        BadRowsError: see `activation_gradients`.
    """
    gradient = np.empty((len(samples), len(places) * len(layers), decoder.d_model), np.float32)
    logprob = np.empty(len(samples), np.float32)
    for batch in activation_gradients(decoder, samples, layers, places):
        gradient[batch.rows], logprob[batch.rows] = batch.gradient, batch.target_logprob
    return gradient, logprob


@dataclass(frozen=True)
class Suffix:
    """What follows the prefix: the rest of the prompt and all but the last token of what is predicted.

    `row`, `position`, `token`: one entry for each predicted token. `first`: where a row's first predicted token stands
    among those.
    """

    ids: Int[Tensor, "b position"]
    row: Int[Tensor, " predicted"]
    position: Int[Tensor, " predicted"]
    token: Int[Tensor, " predicted"]
    first: Int[Tensor, " b"]

    @staticmethod
    def of(rests: Sequence[tuple[int, ...]], follows: Sequence[tuple[int, ...]], device: torch.device) -> "Suffix":
        """What follows the prefixes: the rest of each prompt, and the tokens that are predicted behind it."""
        lengths = np.array([len(follow) for follow in follows])
        first = lengths.cumsum() - lengths
        row = np.repeat(np.arange(len(follows)), lengths)
        position = np.arange(len(row)) - np.repeat(first + 1 - [len(rest) for rest in rests], lengths)
        token = np.array([token for follow in follows for token in follow])
        ids = padded([(*rest, *follow[:-1]) for rest, follow in zip(rests, follows, strict=True)], device)
        return Suffix(ids, *(torch.as_tensor(part, device=device) for part in (row, position, token, first)))

    def logprobs(
        self, decoder: Decoder, normed: Float[Tensor, "b position d_model"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "predicted vocabulary"], Float[Tensor, " predicted"]]:
        """The log-probability of each row's predicted tokens, summed; logits and their log-sum-exp at each of these."""
        logits = decoder.logits(normed[self.row, self.position])
        partition = logits.logsumexp(-1)
        token = logits.gather(-1, self.token[:, None])[:, 0] - partition
        return token.new_zeros(len(self.ids)).index_add(0, self.row, token), logits, partition


def measure(
    decoder: Decoder,
    batch: Sequence[Sample],
    rows: Int[np.ndarray, " b"],
    layers: Sequence[int],
    prefix: Prefix,
    places: Sequence[str] = (FIRST,),
) -> GradientBatch:
    """Gradients, activations and log-probabilities of one batch, whose prefixes (before all places) have been run.

    Raises:
        BadRowsError: a loss or gradient is not finite.
    """
    starts = [sample.start(places) for sample in batch]
    rests = [sample.prompt[start:] for sample, start in zip(batch, starts, strict=True)]
    suffix = Suffix.of(rests, [sample.target for sample in batch], decoder.device)
    with torch.enable_grad(), streams_after(decoder.blocks, layers) as streams:
        normed = read_on(decoder, suffix.ids, prefix)
        logprob, logits, partition = suffix.logprobs(decoder, normed)
        gradients = torch.autograd.grad(-logprob.sum(), [streams[layer] for layer in layers])
    positions = torch.tensor([[sample.position(place) for place in places] for sample in batch])
    index = (positions - torch.tensor(starts)[:, None]).clamp_min(-1)
    first, partition = (values.detach()[suffix.first] for values in (logits, partition))
    result = GradientBatch(
        rows=rows,
        gradient=at_places(gradients, index),
        activation=at_places([streams[layer] for layer in layers], index),
        target_logprob=logprob.detach().float().cpu().numpy(),
        answer_logprob=_answer_logprobs(decoder, batch, rests, prefix, first, partition),
        top_token=first.argmax(-1).cpu().numpy(),
    )
    finite = np.isfinite(result.target_logprob) & np.isfinite(result.gradient).all((1, 2))
    if not finite.all():
        raise BadRowsError("loss or gradient is not finite", rows[~finite].tolist())
    return result


def at_places(
    streams: Sequence[Float[Tensor, "b position d_model"]], index: Int[Tensor, "b place"]
) -> Float32[np.ndarray, "b vector d_model"]:
    """What stands at some positions of each row: a vector for each of the streams at the first place, then at the next.

    Zeros where the index is -1.
    """

    def taken(stream: Float[Tensor, "b position d_model"]) -> Float32[Tensor, "b place d_model"]:
        at = index.to(stream.device)
        rows = torch.arange(len(at), device=at.device)[:, None]
        return stream.detach()[rows, at.clamp_min(0)].float().masked_fill((at < 0)[..., None], 0).cpu()

    return torch.stack([taken(stream) for stream in streams], dim=2).flatten(1, 2).numpy()


@torch.no_grad()
def _answer_logprobs(
    decoder: Decoder,
    batch: Sequence[Sample],
    rests: Sequence[tuple[int, ...]],
    prefix: Prefix,
    first: Float[Tensor, "b vocabulary"],
    partition: Float[Tensor, " b"],
) -> Float32[np.ndarray, " b"]:
    """log p(answer | prompt): read off the target's own pass where the answer is one token, else by another pass."""
    result = np.full(len(batch), np.nan, dtype=np.float32)
    answers = {index: sample.answer for index, sample in enumerate(batch) if sample.answer}
    single = [index for index, answer in answers.items() if len(answer) == 1]
    if single:
        tokens = [answers[index][0] for index in single]
        result[single] = (first[single, tokens] - partition[single]).float().cpu().numpy()
    longer = [index for index, answer in answers.items() if len(answer) > 1]
    if longer:
        suffix = Suffix.of([rests[at] for at in longer], [answers[at] for at in longer], decoder.device)
        own = prefix.select(torch.tensor(longer, device=decoder.device))
        logprob, _, _ = suffix.logprobs(decoder, read_on(decoder, suffix.ids, own))
        result[longer] = logprob.float().cpu().numpy()
    return result


@contextmanager
def streams_after(blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collects the residual stream after the layers; the lowest is cut from what is below and becomes a leaf."""
    streams: dict[int, Tensor] = {}
    lowest = min(layers)

    def collector(layer: int) -> Callable[[nn.Module, Any, Any], Any]:
        def collect(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            stream = residual(output)
            if layer == lowest:
                stream = stream.detach().requires_grad_()
            streams[layer] = stream
            return with_residual(output, stream)

        return collect

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(blocks[layer].register_forward_hook(collector(layer)))
        yield streams
