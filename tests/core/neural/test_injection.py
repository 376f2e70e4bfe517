"""Slots: where they are found, that replacing replaces, and that training and reporting read the same thing."""

import pytest
import torch

from stages.core.neural.decoder import Decoder
from stages.core.neural.injection import embedding_norm, reading_prompt, replace_slots
from stages.core.neural.reader import SLOTS, Reader, new_card
from stages.core.wording import QUESTION

HOSTS = ["The capital of Peru is", None, "It is known that the composer of Tosca is"]


@pytest.fixture(scope="module")
def reader(small_decoder: Decoder) -> Reader:
    card = new_card(
        small_decoder, architecture="linear", width=4, layers=(0, 1), reference=(1.0, 1.0), slot_token="<slot>",
        sharpness=20.0, model="pocket", commit="0", held_out_domains=(), seeds=(0,), gates=(0.0,),
    )  # fmt: skip
    return Reader.new(small_decoder, card, 0)


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


def test_without_injection_the_logits_are_the_untouched_model_s_bit_for_bit(reader: Reader):
    prompts = [reader.prompt(host) for host in HOSTS]
    for prompt in prompts:
        embeds, _ = reader.embed([prompt], [()], None)
        untouched = reader.decoder.model(input_ids=torch.tensor([prompt.ids])).logits
        assert torch.equal(reader.decoder.model(inputs_embeds=embeds).logits, untouched)


def test_training_and_reporting_give_the_same_logits(reader: Reader):
    """In training a prompt is padded on the right and the report is part of it; a report grows token by token."""
    gradients = torch.randn(len(HOSTS), 2, reader.decoder.d_model)
    prompts, vectors = [reader.prompt(host) for host in HOSTS], reader.vectors(gradients)
    tails = [reader.decoder.continuation(text) for text in ("weak music", "Lima", "strong geography")]
    embeds, lengths = reader.embed(prompts, tails, vectors)
    training = reader.decoder.logits(reader.decoder.body(inputs_embeds=embeds).last_hidden_state)
    for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
        alone, _ = reader.embed([prompt], [()], vectors[row : row + 1])
        output = reader.decoder.model(inputs_embeds=alone, use_cache=True)
        steps = [output.logits[0, -1]]
        for token in tail:
            output = reader.decoder.model(input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values)
            steps.append(output.logits[0, -1])
        at = slice(len(prompt.ids) - 1, lengths[row])
        torch.testing.assert_close(training[row, at], torch.stack(steps), rtol=1e-4, atol=1e-4)


def test_slots_decide_what_is_read_and_they_have_a_name_each(reader: Reader):
    assert SLOTS == ("strength", "moved_to", "moved_from")
    prompt = reader.prompt(HOSTS[0])
    logits = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        embeds, _ = reader.embed([prompt], [()], torch.randn(1, 3, reader.decoder.d_model))
        logits.append(reader.decoder.model(inputs_embeds=embeds).logits[0])
    before, after = slice(0, prompt.slots[0]), slice(prompt.slots[0], None)
    assert torch.equal(logits[0][before], logits[1][before]) and not torch.allclose(logits[0][after], logits[1][after])
