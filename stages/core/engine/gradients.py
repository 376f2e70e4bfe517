"""Activation gradients: dL/dh at the last prompt token after a block, with L = -log p(target | prompt) in nats.

Only what is needed is computed. The prompt up to its last token runs once without a graph and stays as keys and values;
last token and target (the suffix) run through the lower blocks without a graph, since nothing there requires one; the
residual stream after the lowest wanted layer is made a leaf, and one backward pass from the loss gives every wanted
layer's gradient. Logits are made at answer positions only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from ..model.decoder import Decoder, residual, with_residual
from ..model.packed import packed_linears
from .batches import padded
from .prefix import Prefix, over_prefixes
from .samples import BadRowsError, Sample, check_layers, check_samples


@dataclass(frozen=True)
class GradientBatch:
    """Gradients, activations and log-probabilities of one batch, in the order of `rows`.

    Attributes:
        rows: indices into the samples.
        gradient: dL/dh (raw; the update direction is minus this), nats per unit of the residual stream.
        activation: h, the residual stream at the last prompt token after the block.
        target_logprob: log p(target | prompt), summed over the target's tokens, nats: minus the loss.
        answer_logprob: the same of the answer; NaN where there is none.
        top_token: the token that the model finds most likely after the prompt.
    """

    rows: Int[np.ndarray, " b"]
    gradient: Float32[np.ndarray, "b layer d_model"]
    activation: Float32[np.ndarray, "b layer d_model"]
    target_logprob: Float32[np.ndarray, " b"]
    answer_logprob: Float32[np.ndarray, " b"]
    top_token: Int[np.ndarray, " b"]


def activation_gradients(
    decoder: Decoder,
    samples: Sequence[Sample],
    layers: Sequence[int],
    *,
    advance: Callable[[int], None] | None = None,
    tokens: int | None = None,
) -> Iterator[GradientBatch]:
    """Yields the gradients of all samples, in batches of like length and so in another order than the samples'.

    Args:
        decoder: the frozen model.
        samples: what to measure.
        layers: 0-based block indices; the second axis of the results is in this order.
        advance: told the number of rows after each batch.
        tokens: most tokens in a pass; None: worked out.

    Raises:
        BadRowsError: rows cannot be measured (see `check_samples`), before the first batch; or their loss or gradient
            is not finite, when their batch is reached.
        InputError: a layer that the model does not have, or one twice.
    """
    check_layers(decoder, layers)
    check_samples(decoder, samples)
    yield from over_prefixes(
        decoder,
        samples,
        lambda batch, rows, prefix: measure(decoder, batch, rows, layers, prefix),
        follow=lambda sample: len(sample.target) - 1,
        versions=max((len(sample.target) for sample in samples), default=1),
        advance=advance,
        tokens=tokens,
    )


@dataclass(frozen=True)
class _Suffix:
    """What follows the prefix: the last prompt token and all but the last token of what is predicted.

    `row`, `position`, `token`: one entry for each predicted token. `first`: where a row's first predicted token stands
    among those.
    """

    ids: Int[Tensor, "b position"]
    row: Int[Tensor, " predicted"]
    position: Int[Tensor, " predicted"]
    token: Int[Tensor, " predicted"]
    first: Int[Tensor, " b"]

    @staticmethod
    def of(prompts: Sequence[tuple[int, ...]], follows: Sequence[tuple[int, ...]], device: torch.device) -> "_Suffix":
        lengths = np.array([len(follow) for follow in follows])
        first = lengths.cumsum() - lengths
        row = np.repeat(np.arange(len(follows)), lengths)
        position = np.arange(len(row)) - np.repeat(first, lengths)
        token = np.array([token for follow in follows for token in follow])
        ids = padded([(prompt[-1], *follow[:-1]) for prompt, follow in zip(prompts, follows, strict=True)], device)
        return _Suffix(ids, *(torch.as_tensor(part, device=device) for part in (row, position, token, first)))

    def logprobs(
        self, decoder: Decoder, normed: Float[Tensor, "b position d_model"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "predicted vocabulary"], Float[Tensor, " predicted"]]:
        """The log-probability of each row's predicted tokens, summed; logits and their log-sum-exp at each of these."""
        logits = decoder.logits(normed[self.row, self.position])
        partition = logits.logsumexp(-1)
        token = logits.gather(-1, self.token[:, None])[:, 0] - partition
        return token.new_zeros(len(self.ids)).index_add(0, self.row, token), logits, partition


def measure(
    decoder: Decoder, batch: Sequence[Sample], rows: Int[np.ndarray, " b"], layers: Sequence[int], prefix: Prefix
) -> GradientBatch:
    """Gradients, activations and log-probabilities of one batch, whose prefixes have been run.

    Raises:
        BadRowsError: a loss or gradient is not finite.
    """
    suffix = _Suffix.of([sample.prompt for sample in batch], [sample.target for sample in batch], decoder.device)
    with torch.enable_grad(), packed_linears(decoder.model), _stream_from(decoder.blocks, layers) as streams:
        normed = _run(decoder, suffix.ids, prefix)
        logprob, logits, partition = suffix.logprobs(decoder, normed)
        gradients = torch.autograd.grad(-logprob.sum(), [streams[layer] for layer in layers])

    def at_last(tensors: Sequence[Float[Tensor, "b position d_model"]]) -> Float32[np.ndarray, "b layer d_model"]:
        return torch.stack([tensor.detach()[:, 0].float().cpu() for tensor in tensors], dim=1).numpy()

    first = logits.detach()[suffix.first]
    answer_logprob = _answer_logprobs(decoder, batch, prefix, first, partition.detach()[suffix.first])
    result = GradientBatch(
        rows=rows,
        gradient=at_last(gradients),
        activation=at_last([streams[layer] for layer in layers]),
        target_logprob=logprob.detach().float().cpu().numpy(),
        answer_logprob=answer_logprob,
        top_token=first.argmax(-1).cpu().numpy(),
    )
    finite = np.isfinite(result.target_logprob) & np.isfinite(result.gradient).all((1, 2))
    if not finite.all():
        raise BadRowsError("loss or gradient is not finite", rows[~finite].tolist())
    return result


@torch.no_grad()
def _answer_logprobs(
    decoder: Decoder,
    batch: Sequence[Sample],
    prefix: Prefix,
    first: Float[Tensor, "b vocabulary"],
    partition: Float[Tensor, " b"],
) -> Float32[np.ndarray, " b"]:
    """log p(answer | prompt): read off the target's own pass where the answer is one token, else by another pass."""
    result = np.full(len(batch), np.nan, dtype=np.float32)
    known = [(index, sample.answer) for index, sample in enumerate(batch) if sample.answer]
    single = [index for index, answer in known if len(answer) == 1]
    if single:
        tokens = [answer[0] for _, answer in known if len(answer) == 1]
        result[single] = (first[single, tokens] - partition[single]).float().cpu().numpy()
    longer = [index for index, answer in known if len(answer) > 1]
    if longer:
        answers = [answer for _, answer in known if len(answer) > 1]
        suffix = _Suffix.of([batch[index].prompt for index in longer], answers, decoder.device)
        own = prefix.select(torch.tensor(longer, device=decoder.device))
        with packed_linears(decoder.model):
            logprob, _, _ = suffix.logprobs(decoder, _run(decoder, suffix.ids, own))
        result[longer] = logprob.float().cpu().numpy()
    return result


def _run(decoder: Decoder, ids: Int[Tensor, "b position"], prefix: Prefix) -> Float[Tensor, "b position d_model"]:
    """The normed residual stream of tokens that follow a prefix."""
    return decoder.body(
        input_ids=ids, past_key_values=prefix.fork(), use_cache=True, **prefix.arguments(ids.shape[1])
    ).last_hidden_state


@contextmanager
def _stream_from(blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
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

    handles = [blocks[layer].register_forward_hook(collector(layer)) for layer in layers]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()
