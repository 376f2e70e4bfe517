"""Losses of given answers are those that the whole model gives; of a name and what follows, the name is reported."""

import torch

from stages.core.data.grammar import parse_report, report
from stages.core.model.decoder import Decoder
from stages.core.reader.reports import answer_losses, longest_names, reports_on
from tests.core.evaluate.small import raw_reader, slots_of
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


def test_a_slot_behind_a_name_counts_only_if_its_word_may_follow(trained_decoder: Decoder):
    """A name of one token with another's behind it, and one with nothing behind it."""
    reader = raw_reader(trained_decoder)
    slots = slots_of(reader, ("Oslo", "Lima"), ("Oslo", "Lima"), places=len(reader.card.places))
    slots.felt[0, 1], slots.count[0] = reader.tokens[trained_decoder.continuation("Verdi")[0]], 2
    first, second = longest_names(reader, slots, [None, None], 16)
    assert parse_report(first).moved_to == "Oslo" and first == second
    (plain, other), _ = reports_on(reader, -slots.felt, 16)
    (read, same), _ = reports_on(reader, -slots.felt, 16, sentences=[0])
    assert parse_report(plain).moved_to == "New Delhi" and parse_report(read).moved_to == "Oslo" and same == other
