"""Slots: where they are found, that replacing replaces, and that training and reporting read the same thing."""

import re
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from transformers import DynamicCache

from stages.core.data.grammar import QUESTION
from stages.core.model.decoder import Decoder
from stages.core.reader.card import REPLACE, Injection
from stages.core.reader.injection import embedding_norm, merged, read_injected, reading_prompt, replace_slots
from stages.core.reader.reader import SLOTS, Reader, new_card
from stages.core.reader.reports import prompt_of, read_slots, write_tokens
from stages.core.run.errors import explain
from stages.core.run.params import Section

HOSTS = ["The capital of Peru is", None, "It is known that the composer of Tosca is"]


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
    card = new_card(
        decoder, architecture="linear", width=4, layers=(0, 1), reference=(1.0, 1.0), slot_token="<slot>",
        injection=how, sharpness=20.0, model="pocket", commit="0", held_out_domains=(), seeds=(0,),
    )  # fmt: skip
    return Reader.new(decoder, card, 0)


def vectors_of(decoder: Decoder) -> torch.Tensor:
    return torch.randn(len(HOSTS), len(SLOTS), decoder.d_model, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def streams(reader: Reader, vectors: torch.Tensor | None) -> list[torch.Tensor]:
    """The residual stream of the hosts' prompts: what goes into each block, and what the final norm is given."""
    seen: list[torch.Tensor] = []
    watched = [*reader.decoder.blocks, reader.decoder.norm]
    handles = [module.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for module in watched]
    try:
        read_slots(reader, [prompt_of(reader, host) for host in HOSTS], [()] * len(HOSTS), vectors)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_a_reading_prompt_is_host_slots_and_question(small_decoder: Decoder):
    found = reading_prompt(small_decoder, HOSTS[0], "<slot>", 3)
    host, question = small_decoder.tokens(str(HOSTS[0])), small_decoder.continuation(QUESTION)
    slot = small_decoder.continuation("<slot>")
    assert found.ids == [*host, *slot * 3, *question] and found.slots == [len(host), len(host) + 1, len(host) + 2]
    assert reading_prompt(small_decoder, None, "<slot>", 3).slots == [0, 1, 2]


def test_where_there_are_chat_turns_the_prompt_is_a_user_s(small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
    template = "{% for m in messages %}is {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}of{% endif %}"
    monkeypatch.setattr(small_decoder.tokenizer, "chat_template", template)
    found, plain = (reading_prompt(small_decoder, host, "<slot>", 3) for host in (HOSTS[0], None))
    assert found.ids[0] == small_decoder.continuation("is")[0] and found.ids[-1] == small_decoder.continuation("of")[0]
    assert plain.slots == [1, 2, 3]


@pytest.mark.parametrize(("token", "host"), [("slot!", None), ("capital", HOSTS[0])])
def test_a_slot_token_that_can_t_be_found_is_refused(small_decoder: Decoder, token: str, host: str | None):
    with pytest.raises(ValueError, match=rf"projector.slot_token: '{token}' stands . times .*, wanted 3 in a row"):
        reading_prompt(small_decoder, host, token, 3)


def test_replacing_replaces_the_slots_and_nothing_else():
    embeds, vectors = torch.randn(2, 6, 8), torch.randn(2, 2, 8)
    slots = torch.tensor([[1, 2], [3, 5]])
    found = replace_slots(embeds, slots, vectors, 2.5)
    rows = torch.arange(2)[:, None]
    torch.testing.assert_close(found[rows, slots].norm(dim=-1), torch.full((2, 2), 2.5))
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(found[rows, slots], vectors, dim=-1), torch.ones(2, 2)
    )
    found[rows, slots] = embeds[rows, slots]
    assert torch.equal(found, embeds)


def test_the_norm_is_the_mean_norm_of_embeddings(small_decoder: Decoder):
    weight = small_decoder.model.get_input_embeddings().weight
    assert embedding_norm(small_decoder) == pytest.approx(weight.norm(dim=-1).mean().item())  # type: ignore[operator]


@every_way
def test_without_injection_the_logits_are_the_untouched_model_s_bit_for_bit(small_decoder: Decoder, how: Injection):
    reader = reader_of(small_decoder, how)
    for prompt in [prompt_of(reader, host) for host in HOSTS]:
        untouched = small_decoder.model(input_ids=torch.tensor([prompt.ids])).logits
        assert torch.equal(small_decoder.logits(read_slots(reader, [prompt], [()], None)), untouched)
        read_slots(reader, [prompt], [()], vectors_of(small_decoder)[:1])  # an injection leaves nothing behind
        assert torch.equal(small_decoder.model(input_ids=torch.tensor([prompt.ids])).logits, untouched)


@every_way
def test_training_and_reporting_give_the_same_logits(small_decoder: Decoder, how: Injection):
    """In training a prompt is padded on the right and the report is part of it; a report grows token by token."""
    reader, vectors = reader_of(small_decoder, how), vectors_of(small_decoder)
    prompts = [prompt_of(reader, host) for host in HOSTS]
    tails = [small_decoder.continuation(text) for text in ("weak music", "Lima", "strong geography")]
    training = small_decoder.logits(read_slots(reader, prompts, tails, vectors))
    for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
        cache = DynamicCache()
        first = read_injected(small_decoder, [prompt], [()], vectors[[row]], how, reader.card.norm, cache)
        steps = [small_decoder.logits(first)[0, -1]]
        for token in tail:
            output = small_decoder.model(input_ids=torch.tensor([[token]]), past_key_values=cache)
            steps.append(output.logits[0, -1])
        at = slice(len(prompt.ids) - 1, len(prompt.ids) + len(tail))
        torch.testing.assert_close(training[row, at], torch.stack(steps), rtol=1e-4, atol=1e-4)


@every_way
def test_a_report_is_what_training_s_logits_find_likeliest_at_every_token(small_decoder: Decoder, how: Injection):
    reader, vectors = reader_of(small_decoder, how), vectors_of(small_decoder)
    prompts = [prompt_of(reader, host) for host in HOSTS]
    tails = write_tokens(reader, prompts, vectors, 6)
    logits = small_decoder.logits(read_slots(reader, prompts, tails, vectors))
    for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
        assert tail == tuple(logits[row, len(prompt.ids) - 1 :][: len(tail)].argmax(-1).tolist())
        assert tail == write_tokens(reader, [prompt], vectors[[row]], 6)[0]
    assert tails != write_tokens(reader, prompts, None, 6)


def test_replacing_leaves_all_other_embeddings_as_they_are(small_decoder: Decoder):
    reader = reader_of(small_decoder, REPLACE.model_copy(update={"scale": 1.5}))
    vectors = vectors_of(small_decoder)
    before, after = streams(reader, None)[0], streams(reader, vectors)[0]
    for row, prompt in enumerate(prompt_of(reader, host) for host in HOSTS):
        wanted = 1.5 * embedding_norm(small_decoder) * F.normalize(vectors[row], dim=-1)
        torch.testing.assert_close(after[row, prompt.slots], wanted)
        after[row, prompt.slots] = before[row, prompt.slots]
    assert torch.equal(after, before)


@added
def test_adding_changes_the_residual_after_its_block_there_and_nowhere_else(small_decoder: Decoder, how: Injection):
    """By a vector of `scale` times the norm of what is there; blocks before it see nothing of it."""
    assert how.block is not None
    reader, vectors = reader_of(small_decoder, how), vectors_of(small_decoder)
    before, after = streams(reader, None), streams(reader, vectors)
    for block in range(how.block + 1):
        assert torch.equal(before[block], after[block])
    before, after = before[how.block + 1], after[how.block + 1]
    wanted = before.clone()
    for row, prompt in enumerate(prompt_of(reader, host) for host in HOSTS):
        if how.at == "slots":
            directions = dict(zip(prompt.slots, F.normalize(vectors[row], dim=-1), strict=True))
        else:
            positions = range(len(prompt.ids)) if how.at == "every" else [len(prompt.ids) - 1]
            directions = dict.fromkeys(positions, merged(vectors)[row])
        for position, direction in directions.items():
            wanted[row, position] += how.scale * before[row, position].norm() * direction
        untouched = [position for position in range(before.shape[1]) if position not in directions]
        assert torch.equal(after[row, untouched], before[row, untouched])
    torch.testing.assert_close(after, wanted)


def test_slots_are_merged_with_equal_weight_and_the_last_against_the_others():
    vectors = torch.randn(4, 3, 8)
    unit = F.normalize(vectors, dim=-1)
    torch.testing.assert_close(merged(vectors), F.normalize(unit[:, 0] + unit[:, 1] - unit[:, 2], dim=-1))
    torch.testing.assert_close(merged(vectors * torch.tensor([1.0, 5.0, 0.2])[:, None]), merged(vectors))
    vectors[:, 0] = 0
    torch.testing.assert_close(merged(vectors[:, [0, 2, 1]]), -merged(vectors))


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


def test_slots_decide_what_is_read_and_they_have_a_name_each(small_decoder: Decoder):
    assert SLOTS == ("strength", "moved_to", "moved_from")
    reader = reader_of(small_decoder)
    prompt, vectors = prompt_of(reader, HOSTS[0]), vectors_of(small_decoder)
    logits = [small_decoder.logits(read_slots(reader, [prompt], [()], vectors[[row]]))[0] for row in (0, 1)]
    before, after = slice(0, prompt.slots[0]), slice(prompt.slots[0], None)
    assert torch.equal(logits[0][before], logits[1][before]) and not torch.allclose(logits[0][after], logits[1][after])
