"""Slots: where they are found, that replacing replaces, and that training and reporting read the same thing."""

import re
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from transformers import DynamicCache

from stages.core.model.decoder import Decoder
from stages.core.reader.card import Injection
from stages.core.reader.injection import (
    ReadingPrompt,
    Slots,
    reading_prompt,
    replace_slots,
    spread,
)  # fmt: skip
from stages.core.reader.reader import Reader
from stages.core.reader.reports import prompts_of, read_slots, write_tokens
from stages.core.reader.vocabulary import embedding_norm
from stages.core.run.errors import explain
from stages.core.run.params import Section
from tests.core.reader.teaching import QUESTION, REPLACE, gradients, new_reader, prompts, settings, some_slots

HOSTS = ["The capital of Peru is", None, "It is known that the composer of Tosca is"]
COUNTS = [2, 1, 3]


class Kept(Section):
    injection: Injection


ADDED = [
    Injection(how="add", block=0, at="slots", scale=2.0),
    Injection(how="add", block=0, at="last", scale=1.0),
    Injection(how="add", block=1, at="last", scale=0.5),
    Injection(how="add", block=0, at="every", scale=0.5),
    Injection(how="add", block=1, at="every", scale=1.0),
]
added = pytest.mark.parametrize("how", ADDED, ids=lambda how: f"{how.at}-{how.block}")
every_way = pytest.mark.parametrize("how", [REPLACE, *ADDED], ids=lambda how: f"{how.how}-{how.at}-{how.block}")


def reader_of(decoder: Decoder, how: Injection = REPLACE) -> Reader:
    return new_reader(decoder, settings(architecture="linear", injection=how))


def slots_of(decoder: Decoder) -> Slots:
    return some_slots(decoder.d_model, COUNTS)


@torch.no_grad()
def streams(reader: Reader, slots: Slots | None) -> list[torch.Tensor]:
    """The residual stream of the hosts' prompts: what goes into each block, and what the final norm is given."""
    seen: list[torch.Tensor] = []
    watched = [*reader.decoder.blocks, reader.decoder.norm]
    handles = [module.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for module in watched]
    try:
        read_slots(reader, prompts(reader, HOSTS, slots_of(reader.decoder)), [()] * len(HOSTS), slots)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_a_reading_prompt_is_host_slots_and_question(small_decoder: Decoder):
    found = reading_prompt(small_decoder, HOSTS[0], QUESTION, "<slot>", 3)
    host, (slot,) = small_decoder.tokens(str(HOSTS[0])), small_decoder.continuation("<slot>")
    away, question = (small_decoder.continuation(text) for text in ("away", "what pressure do you feel ?"))
    assert found.ids == [*host, *[slot] * 3, *away, *[slot] * 3, *question]
    start = len(host)
    assert found.felt == [start, start + 1, start + 2] and found.opposite == [start + 4, start + 5, start + 6]
    assert found.slots == [*found.felt, *found.opposite]
    assert reading_prompt(small_decoder, None, QUESTION, "<slot>", 1).slots == [0, 2]


def test_slots_stand_where_the_question_has_them_even_in_a_subject_s_place(small_decoder: Decoder):
    found = reading_prompt(small_decoder, None, "The city <felt> is in", "<slot>", 2)
    assert found.felt == [2, 3] and not found.opposite
    filled = small_decoder.tokens("The city New Delhi is in")
    assert [*found.ids[:2], *found.ids[4:]] == [*filled[:2], *filled[4:]] and len(found.ids) == len(filled)


def test_where_there_are_chat_turns_the_prompt_is_a_user_s(small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
    template = "{% for m in messages %}is {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}of{% endif %}"
    monkeypatch.setattr(small_decoder.tokenizer, "chat_template", template)
    text = reading_prompt(small_decoder, HOSTS[0], QUESTION, "<slot>", 2).ids
    found, plain = (reading_prompt(small_decoder, host, QUESTION, "<slot>", 2, chat=True) for host in (HOSTS[0], None))
    assert text[0] == small_decoder.continuation("The")[0] and text == found.ids[1:-1]
    assert found.ids[0] == small_decoder.continuation("is")[0] and found.ids[-1] == small_decoder.continuation("of")[0]
    assert plain.felt == [1, 2] and plain.opposite == [4, 5]


@pytest.mark.parametrize(("token", "host"), [("slot!", None), ("capital", HOSTS[0])])
def test_a_slot_token_that_can_t_be_found_is_refused(small_decoder: Decoder, token: str, host: str | None):
    with pytest.raises(ValueError, match=rf"projector.slot_token: '{token}' stands . times .*, wanted 6: choose"):
        reading_prompt(small_decoder, host, QUESTION, token, 3)


def test_a_question_longer_than_the_context_is_refused(small_decoder: Decoder):
    asked = f"<felt> {'what ' * 127}"
    with pytest.raises(
        ValueError, match=r"question '<felt> what .*found 128 tokens with its host prompt, wanted fewer"
    ):
        reading_prompt(small_decoder, None, asked, "<slot>", 1)
    assert len(reading_prompt(small_decoder, None, asked.replace("what ", "", 1), "<slot>", 1).ids) == 127


def test_each_host_has_as_many_slots_as_its_row_has_places_and_may_have_a_question_of_its_own(small_decoder: Decoder):
    reader, slots = reader_of(small_decoder), slots_of(small_decoder)
    found = prompts(reader, HOSTS, slots)
    assert [(len(each.felt), len(each.opposite)) for each in found] == [(count, count) for count in COUNTS]
    assert [len(each.felt) for each in prompts(reader, HOSTS, None)] == [1, 1, 1]
    asked = [QUESTION, "The city <felt> is in", "<felt> toward what ?"]
    each = prompts_of(reader, HOSTS, asked, slots)
    assert each == [prompts_of(reader, [host], one, slots[row : row + 1])[0]
                    for row, (host, one) in enumerate(zip(HOSTS, asked, strict=True))]  # fmt: skip
    assert [len(one.opposite) for one in each] == [2, 0, 0]


def test_the_slots_of_a_name_hold_its_places_in_order(small_decoder: Decoder):
    slots = slots_of(small_decoder)
    found = prompts(reader_of(small_decoder), HOSTS, slots)
    wanted = [side[row, :count] for row, count in enumerate(COUNTS) for side in (slots.felt, slots.opposite)]
    assert torch.equal(slots.of(found), torch.cat(wanted))
    mixed = prompts_of(reader_of(small_decoder), HOSTS, ["<felt> ?", QUESTION, "<felt> ?"], slots)
    wanted = [slots.felt[0, :2], slots.felt[1, :1], slots.opposite[1, :1], slots.felt[2]]
    assert torch.equal(slots.of(mixed), torch.cat(wanted))


def test_a_gradient_that_has_one_place_fills_one_slot_and_only_a_gradient_of_zeros_fills_it_with_zero(
    small_decoder: Decoder,
):
    reader = new_reader(small_decoder, settings(architecture="raw"))
    read = gradients(reader, 4)
    read[3] = 0
    slots = reader.read(read)
    assert slots.count.tolist() == [1, 2, 1, 1]
    asked = prompts(reader, [None] * 4, slots)
    filled = replace_slots(torch.ones(4, 12, small_decoder.d_model), asked, slots.of(asked), 2.0)
    assert [len(one.slots) for one in asked] == [2, 4, 2, 2]
    for row in range(3):
        torch.testing.assert_close(
            filled[row, asked[row].slots].norm(dim=-1), torch.full((len(asked[row].slots),), 2.0)
        )
    assert not filled[3, asked[3].slots].any()


def test_replacing_replaces_the_slots_and_nothing_else():
    embeds, vectors = torch.randn(2, 6, 8), torch.randn(4, 8)
    asked = [ReadingPrompt([], [1, 2], []), ReadingPrompt([], [3], [5])]
    row, slot = [0, 0, 1, 1], [1, 2, 3, 5]
    found = replace_slots(embeds, asked, vectors, 2.5)
    torch.testing.assert_close(found[row, slot].norm(dim=-1), torch.full((4,), 2.5))
    torch.testing.assert_close(F.cosine_similarity(found[row, slot], vectors, dim=-1), torch.ones(4))
    found[row, slot] = embeds[row, slot]
    assert torch.equal(found, embeds)


def test_the_norm_is_the_mean_norm_of_embeddings(small_decoder: Decoder):
    weight = small_decoder.model.get_input_embeddings().weight
    assert embedding_norm(small_decoder) == pytest.approx(weight.norm(dim=-1).mean().item())  # type: ignore[operator]


@every_way
def test_without_injection_the_logits_are_the_untouched_model_s_bit_for_bit(small_decoder: Decoder, how: Injection):
    reader = reader_of(small_decoder, how)
    for host in HOSTS:
        (prompt,) = prompts(reader, [host], None)
        untouched = small_decoder.model(input_ids=torch.tensor([prompt.ids])).logits
        assert torch.equal(small_decoder.logits(read_slots(reader, [prompt], [()], None)), untouched)
        read_slots(reader, [prompt], [()], some_slots(small_decoder.d_model, [1]))  # an injection leaves nothing behind
        assert torch.equal(small_decoder.model(input_ids=torch.tensor([prompt.ids])).logits, untouched)


@every_way
def test_training_and_reporting_give_the_same_logits(small_decoder: Decoder, how: Injection):
    """In training a prompt is padded on the right and the report is part of it; a report grows token by token."""
    reader, slots = reader_of(small_decoder, how), slots_of(small_decoder)
    asked = prompts(reader, HOSTS, slots)
    tails = [small_decoder.continuation(text) for text in ("pressure music", "Lima", "toward geography")]
    training = small_decoder.logits(read_slots(reader, asked, tails, slots))
    for row, (prompt, tail) in enumerate(zip(asked, tails, strict=True)):
        cache = DynamicCache()
        first = read_slots(reader, [prompt], [()], slots[row : row + 1], cache)
        steps = [small_decoder.logits(first)[0, -1]]
        for token in tail:
            output = small_decoder.model(input_ids=torch.tensor([[token]]), past_key_values=cache)
            steps.append(output.logits[0, -1])
        at = slice(len(prompt.ids) - 1, len(prompt.ids) + len(tail))
        torch.testing.assert_close(training[row, at], torch.stack(steps), rtol=1e-4, atol=1e-4)


@every_way
def test_a_report_is_what_training_s_logits_find_likeliest_at_every_token(small_decoder: Decoder, how: Injection):
    reader, slots = reader_of(small_decoder, how), slots_of(small_decoder)
    asked = prompts(reader, HOSTS, slots)
    tails = write_tokens(reader, asked, slots, 6)
    logits = small_decoder.logits(read_slots(reader, asked, tails, slots))
    for row, (prompt, tail) in enumerate(zip(asked, tails, strict=True)):
        assert tail == tuple(logits[row, len(prompt.ids) - 1 :][: len(tail)].argmax(-1).tolist())
        assert tail == write_tokens(reader, [prompt], slots[row : row + 1], 6)[0]
    assert tails != write_tokens(reader, asked, None, 6)


def test_replacing_leaves_all_other_embeddings_as_they_are(small_decoder: Decoder):
    reader = reader_of(small_decoder, REPLACE.model_copy(update={"scale": 1.5}))
    slots = slots_of(small_decoder)
    before, after = streams(reader, None)[0], streams(reader, slots)[0]
    for row, prompt in enumerate(prompts(reader, HOSTS, slots)):
        held = torch.cat([slots.felt[row, : COUNTS[row]], slots.opposite[row, : COUNTS[row]]])
        wanted = 1.5 * embedding_norm(small_decoder) * F.normalize(held, dim=-1)
        torch.testing.assert_close(after[row, prompt.slots], wanted)
        after[row, prompt.slots] = before[row, prompt.slots]
    assert torch.equal(after, before)


@added
def test_adding_changes_the_residual_after_its_block_there_and_nowhere_else(small_decoder: Decoder, how: Injection):
    """By a vector of `scale` times the norm of what is there; blocks before it see nothing of it."""
    assert how.block is not None
    reader, slots = reader_of(small_decoder, how), slots_of(small_decoder)
    before, after = streams(reader, None), streams(reader, slots)
    for block in range(how.block + 1):
        assert torch.equal(before[block], after[block])
    before, after = before[how.block + 1], after[how.block + 1]
    wanted = before.clone()
    for row, prompt in enumerate(prompts(reader, HOSTS, slots)):
        if how.at == "slots":
            directions = dict(zip(prompt.slots, F.normalize(slots[row : row + 1].of([prompt]), dim=-1), strict=True))
        else:
            positions = range(len(prompt.ids)) if how.at == "every" else [len(prompt.ids) - 1]
            merged = F.normalize(slots.felt[row, : COUNTS[row]], dim=-1).sum(0)
            directions = dict.fromkeys(positions, F.normalize(merged, dim=-1))
        for position, direction in directions.items():
            wanted[row, position] += how.scale * before[row, position].norm() * direction
        untouched = [position for position in range(before.shape[1]) if position not in directions]
        assert torch.equal(after[row, untouched], before[row, untouched])
    torch.testing.assert_close(after, wanted)


def test_outside_the_slots_goes_the_sum_of_a_row_s_places_with_equal_weight_and_of_no_others():
    slots, asked = some_slots(8, [1, 3]), [ReadingPrompt([0] * 4, [], []), ReadingPrompt([0] * 2, [], [])]
    unit = F.normalize(slots.felt, dim=-1)
    wanted = torch.stack([unit[0, 0], F.normalize(unit[1].sum(0), dim=-1)])
    torch.testing.assert_close(spread(asked, slots, "last", 5)[[0, 1], [3, 1]], wanted)
    longer = Slots(slots.felt * torch.tensor([1.0, 5.0, 0.2])[:, None], slots.opposite, slots.count)
    torch.testing.assert_close(spread(asked, longer, "every", 5), spread(asked, slots, "every", 5))
    assert spread(asked, slots, "every", 5).any(-1).tolist() == [[True] * 4 + [False], [True] * 2 + [False] * 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 0}, "injection: how: found replace with block 0 and at slots, wanted block null and at slots"),
        ({"at": "last"}, "injection: how: found replace with block None and at last, wanted block null"),
        ({"how": "add"}, "injection: block: found null, wanted the 0-based block"),
        ({"how": "add", "block": -1}, r"injection.block: wanted greater than or equal to 0 \(found -1\)"),
        ({"at": "first"}, r"injection.at: wanted 'slots', 'last' or 'every' \(found 'first'\)"),
        ({"scale": 0.0}, r"injection.scale: wanted greater than 0"),
    ],
)
def test_ways_that_do_not_exist_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValidationError) as caught:
        Kept.model_validate({"injection": REPLACE.model_dump() | changes})
    assert re.search(message, explain("params.yaml", caught.value))


@pytest.mark.parametrize(("block", "at", "message"), [(2, "last", "wanted 0 to 1"), (1, "slots", "wanted less with")])
def test_a_block_that_is_not_there_or_not_read_is_refused(
    small_decoder: Decoder, block: int, at: Literal["slots", "last"], message: str
):
    with pytest.raises(ValueError, match=rf"projector.injection.block: found {block}, {message}"):
        reader_of(small_decoder, Injection(how="add", block=block, at=at, scale=1.0))


def test_slots_decide_what_is_read(small_decoder: Decoder):
    reader, slots = reader_of(small_decoder), some_slots(small_decoder.d_model, [2, 2])
    (prompt,) = prompts(reader, HOSTS[:1], slots[:1])
    logits = [small_decoder.logits(read_slots(reader, [prompt], [()], slots[row : row + 1]))[0] for row in (0, 1)]
    before, after = slice(0, prompt.slots[0]), slice(prompt.slots[0], None)
    assert torch.equal(logits[0][before], logits[1][before]) and not torch.allclose(logits[0][after], logits[1][after])
