"""The log-probability test: each option scored as the whole model scores it, and an unrelated gradient subtracted."""

import torch

from stages.core.data.grammar import report
from stages.core.evaluate.options import margins, report_logprob
from stages.core.model.decoder import Decoder
from tests.core.reader.teaching import gradients, new_reader, replaced, settings

REPORTS = [report("geography", "Oslo", "Lima"), report("music", "Verdi", "New Delhi"), "no pressure"]


def test_the_log_probability_of_a_report_is_the_model_s_own(small_decoder: Decoder):
    """Row by row, without padding, through the whole model."""
    reader = new_reader(small_decoder, settings())
    seen = gradients(reader, 3)
    slots = reader.read(seen)
    wanted = []
    for row, text in enumerate(REPORTS):
        tail = small_decoder.continuation(text)
        embeds = replaced(reader, None, tail[:-1], slots[row : row + 1])
        logs = small_decoder.model(inputs_embeds=embeds).logits[0, -len(tail) :].log_softmax(-1)
        wanted.append(logs[torch.arange(len(tail)), tail].sum())
    torch.testing.assert_close(report_logprob(reader, REPORTS, seen), torch.stack(wanted), rtol=1e-4, atol=1e-4)


def test_a_margin_is_what_the_gradient_brings_over_an_unrelated_one(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings())
    one, other = gradients(reader, 4)[1::2, None]
    found = margins(reader, [REPORTS], one, other)
    swapped = margins(reader, [REPORTS], other, one)
    assert found.shape == (1, 3) and found.abs().max() > 1e-3
    torch.testing.assert_close(found, -swapped)
    torch.testing.assert_close(margins(reader, [REPORTS], one, one), torch.zeros(1, 3))
