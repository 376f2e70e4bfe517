"""The losses of given answers: those that the whole model gives them, row by row."""

import torch

from stages.core.data.grammar import report
from stages.core.model.decoder import Decoder
from stages.core.reader.reports import answer_losses
from tests.core.reader.teaching import gradients, new_reader, prompts, replaced, settings

REPORTS = [report("geography", "Oslo", "Lima"), report("music", "Verdi", "New Delhi"), "no pressure"]


def test_the_log_probability_of_a_report_is_the_model_s_own(small_decoder: Decoder):
    """Row by row, without padding, through the whole model."""
    reader = new_reader(small_decoder, settings())
    slots = reader.read(gradients(reader, 3))
    tails = [small_decoder.continuation(text) for text in REPORTS]
    wanted = []
    for row, tail in enumerate(tails):
        embeds = replaced(reader, None, tail[:-1], slots[row : row + 1])
        logs = small_decoder.model(inputs_embeds=embeds).logits[0, -len(tail) :].log_softmax(-1)
        wanted.append(logs[torch.arange(len(tail)), tail].sum())
    losses, rows = answer_losses(reader, prompts(reader, [None] * 3, slots), tails, slots)
    found = torch.zeros(3).index_add(0, rows, -losses)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)
