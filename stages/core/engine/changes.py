"""The gradient that would teach a model what a change of it does: fine-tuned weights, a soft prompt, a text in front.

L = -sum_t <p'_t - p_t, z_t>: p' and p are what the changed model and the model itself give the next token, z the
model's own logits, and t runs over the first words that the changed model says. Backpropagated through the model alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from ..data.places import FIRST
from ..model.changes import Speaker, speaker
from ..model.decoder import Decoder
from .batches import Rows, in_batches, padded, plan, token_budget
from .gradients import Suffix, at_places, streams_after
from .samples import BadRowsError, Sample, check_layers, check_samples

LOGITS = 2**28
"""Most logits that a batch makes at once."""


@dataclass(frozen=True)
class Changed:
    """What a change does at some prompts, in their order.

    Attributes:
        gradient: dL/dh, raw, in the order of `GradientBatch.gradient`: the update direction, which is minus it, is that
            of a step toward what the changed model says.
        distance: total variation between the two distributions of the next token after the prompt, 0 to 1.
        before, after: what the model and the changed model say (greedy token ids).
    """

    gradient: Float32[np.ndarray, "prompt vector d_model"]
    distance: Float32[np.ndarray, " prompt"]
    before: list[tuple[int, ...]]
    after: list[tuple[int, ...]]


def change_gradients(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    speak: Speaker,
    layers: Sequence[int],
    places: Sequence[str] = (FIRST,),
    *,
    tokens: int,
    advance: Callable[[int], None] | None = None,
) -> Changed:
    """What a change does at each prompt, and the gradient that would teach it.

    Cross-entropy against p' has the same gradient with respect to the logits, and so everywhere.

    Args:
        prompts: token ids.
        speak: the changed model.
        places: of the target's tokens alone: a prompt without a template marks no subject.
        tokens: how many tokens are said at most; they end before a token without letter or digit (see `said`).
        advance: told the number of prompts after each batch.

    Raises:
        BadRowsError: a prompt is empty, too long or outside the vocabulary, or a gradient is not finite.
        InputError: a layer that the model does not have, or one twice.
    """
    check_layers(decoder, layers)
    check_samples(decoder, [Sample(tuple(prompt), (0,) * tokens) for prompt in prompts], places)
    found = Changed(
        np.zeros((len(prompts), len(places) * len(layers), decoder.d_model), np.float32),
        np.zeros(len(prompts), np.float32),
        [()] * len(prompts),
        [()] * len(prompts),
    )
    own = speaker(decoder.model)

    def measure(rows: Rows) -> Rows:
        batch = [tuple(prompts[row]) for row in rows]
        before, after = (said(decoder, batch, each, tokens) for each in (own, speak))
        suffix = Suffix.of(batch, after, decoder.device)
        # both are asked in the same way: where nothing has changed, nothing is left, not even a rounding error
        now, wanted = (each(suffix.ids)[suffix.row, suffix.position].softmax(-1) for each in (own, speak))
        shift = wanted - now
        with torch.enable_grad(), streams_after(decoder.blocks, layers) as streams:
            normed = decoder.body(input_ids=suffix.ids, use_cache=False).last_hidden_state
            logits = decoder.logits(normed[suffix.row, suffix.position])
            gradients = torch.autograd.grad(-(shift * logits).sum(), [streams[layer] for layer in layers])
        samples = [Sample(prompt, target) for prompt, target in zip(batch, after, strict=True)]
        index = torch.tensor([[sample.position(place) for place in places] for sample in samples])
        taken = at_places(gradients, index)
        if bad := rows[~np.isfinite(taken).all((1, 2))].tolist():
            raise BadRowsError("gradient is not finite", bad)
        found.gradient[rows], found.distance[rows] = taken, shift[suffix.first].abs().sum(-1).cpu().numpy() / 2
        for row, *texts in zip(rows, before, after, strict=True):
            found.before[row], found.after[row] = texts
        return rows

    most = min(token_budget(decoder), max(1, LOGITS // decoder.vocabulary))
    batches = plan([(len(prompt), tokens) for prompt in prompts], tokens=most, rows=len(prompts))
    for _ in in_batches(batches, measure, advance):
        pass
    return found


def said(decoder: Decoder, prompts: Sequence[tuple[int, ...]], speak: Speaker, tokens: int) -> list[tuple[int, ...]]:
    """What a changed model says after each prompt, greedily: at most `tokens` tokens, and at least one.

    From the second on a token without letter or digit ends it (an end of the text, a full stop), and is no part of it.
    """
    assert decoder.tokenizer is not None
    rows, going = list(prompts), set(range(len(prompts)))
    for step in range(tokens):
        if not going:
            break
        last = torch.tensor([len(row) - 1 for row in rows], device=decoder.device)
        every = torch.arange(len(rows), device=decoder.device)
        likeliest = speak(padded(rows, decoder.device))[every, last].argmax(-1).tolist()
        for row in sorted(going):
            text = str(decoder.tokenizer.decode([likeliest[row]], skip_special_tokens=True))
            if step and not any(map(str.isalnum, text)):
                going.discard(row)
            else:
                rows[row] = (*rows[row], likeliest[row])
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
