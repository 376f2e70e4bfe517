"""The reader: what reports depend on, and that a projector is only used with the model it was made for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from stages.core.data import grammar
from stages.core.data.facts import Domain
from stages.core.engine.prefix import Padding
from stages.core.model.decoder import Decoder
from stages.core.reader import reports
from stages.core.reader.gate import FAINT
from stages.core.reader.injection import Slots
from stages.core.reader.projectors import ARCHITECTURES, directions
from stages.core.reader.reader import Reader, load_reader, save_reader
from stages.core.reader.reports import answers_of, felt_by, write_tokens
from stages.core.reader.training import train
from stages.core.run.errors import InputError
from stages.core.run.files import write_json
from tests.core.reader.teaching import (
    QUESTION,
    curriculum,
    gradients,
    held_rows,
    new_reader,
    prompts,
    replaced,
    settings,
    some_slots,
)  # fmt: skip
from tests.tools.families import FAMILIES, tiny, untrained

HOSTS = [None, "The capital of Peru is", "It is known that the composer of Tosca is"] * 4


@pytest.fixture
def reader(small_decoder: Decoder) -> Reader:
    return new_reader(small_decoder, settings(architecture="linear"))


def slots_of(reader: Reader) -> Slots:
    return reader.read(gradients(reader, len(HOSTS)))


def asked(reader: Reader, hosts: Sequence[str | None], slots: Slots | None, tokens: int = 5) -> list[str]:
    """Answers to the card's question."""
    return answers_of(reader, hosts, reader.card.question, slots, tokens)


@pytest.mark.parametrize("injected", [True, False])
def test_batch_size_and_order_change_no_answer(reader: Reader, injected: bool):
    slots = slots_of(reader) if injected else None
    back = torch.arange(len(HOSTS)).flip(0)
    wanted = answers_of(reader, HOSTS, QUESTION, slots, 5, batch=256)
    for batch in (1, 5):
        assert answers_of(reader, HOSTS, QUESTION, slots, 5, batch=batch) == wanted
    backwards = answers_of(reader, HOSTS[::-1], QUESTION, None if slots is None else slots[back], 5)
    assert backwards[::-1] == wanted and len(set(wanted)) > 1


def test_rows_may_be_asked_different_questions(reader: Reader):
    slots = slots_of(reader)
    questions = [(QUESTION, "The city <felt> is in")[row % 2] for row in range(len(HOSTS))]
    mixed = answers_of(reader, HOSTS, questions, slots, 5)
    for number, question in enumerate(dict.fromkeys(questions)):
        assert answers_of(reader, HOSTS, question, slots, 5)[number::2] == mixed[number::2]


def test_without_injection_the_answer_is_what_the_model_itself_goes_on_with(reader: Reader):
    for host, answer in zip(HOSTS, asked(reader, HOSTS, None), strict=True):
        ids = torch.tensor([prompts(reader, [host], None)[0].ids])
        plain = reader.decoder.model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]  # type: ignore[operator]
        assert answer == str(reader.decoder.tokenizer.decode(plain, skip_special_tokens=True)).strip()  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["qwen3-4b-instruct", "llama-3.1-8b-instruct"])
@pytest.mark.parametrize("injected", [True, False])
def test_answers_are_those_of_transformers_own_greedy_generation(family: str, injected: bool):
    decoder = tiny(FAMILIES[family])
    reader = untrained(decoder, FAMILIES[family].special[-1])
    slots = slots_of(reader) if injected else None
    wanted = []
    for row, host in enumerate(HOSTS):
        embeds = replaced(reader, host, [], None if slots is None else slots[row : row + 1])
        ids = decoder.model.generate(inputs_embeds=embeds, max_new_tokens=12, do_sample=False)[0]  # type: ignore[operator]
        wanted.append(str(decoder.tokenizer.decode(ids, skip_special_tokens=True)).strip())  # type: ignore[union-attr]
    assert asked(reader, HOSTS, slots, 12) == wanted and len(set(wanted)) > 1


def test_an_answer_ends_before_the_token_that_ends_a_text(small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
    reader = new_reader(small_decoder, settings(architecture="linear"))
    whole = asked(reader, [HOSTS[1]], None, 8)[0]
    first, *_, last = write_tokens(reader, prompts(reader, [HOSTS[1]], None), None, 8)[0]
    monkeypatch.setattr(small_decoder, "eos_ids", lambda: frozenset([last]))
    cut = asked(reader, [HOSTS[1]], None, 8)[0]
    assert last != first and whole.startswith(cut) and 0 < len(cut) < len(whole)
    monkeypatch.setattr(small_decoder, "eos_ids", lambda: frozenset([first]))
    assert asked(reader, [HOSTS[1]], None, 8) == [""]


def test_a_model_that_takes_no_padding_answers_the_same(reader: Reader, monkeypatch: pytest.MonkeyPatch):
    wanted = asked(reader, HOSTS, slots_of(reader))
    monkeypatch.setattr("stages.core.reader.reports.takes_padding", lambda decoder: False)
    monkeypatch.setattr("stages.core.reader.reports.Padding", lambda width, lengths: (
        Padding(width, lengths) if bool((lengths == width).all()) else pytest.fail("padded")
    ))  # fmt: skip
    assert asked(reader, HOSTS, slots_of(reader)) == wanted


def test_a_sign_flip_swaps_what_is_felt_and_its_negative(reader: Reader):
    read = gradients(reader, 6)
    straight, flipped = reader.read(read), reader.read(-read)
    assert torch.equal(straight.felt, flipped.opposite) and torch.equal(straight.opposite, flipped.felt)
    assert not torch.allclose(straight.felt, flipped.felt)


def test_a_place_fills_as_many_slots_as_the_card_says(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings(slots=3))
    read = gradients(reader, 4)
    slots, projector = reader.read(read), reader.projector(directions(reader.by_place(read)))
    assert slots.count.tolist() == [3, 6, 3, 6]  # one place and two
    torch.testing.assert_close(slots.felt, projector.unflatten(2, (3, small_decoder.d_model)).flatten(1, 2))


@pytest.mark.parametrize("name", ["raw", "scale"])
def test_an_architecture_that_fills_one_slot_is_refused_for_more(small_decoder: Decoder, name: str):
    with pytest.raises(InputError, match=r"projector\.slots: found 2, wanted 1"):
        new_reader(small_decoder, settings(architecture=name, slots=2))


@pytest.mark.parametrize(
    ("toward", "away", "place", "word"),
    [
        ("Lima", "Oslo", 0, "Oslo"),
        ("Lima", "New Delhi", 0, "New"),
        ("San Salvador", "San José", 1, "José"),
        ("Richard Strauss", "Richard Wagner", 1, "Wagner"),
        ("San Salvador", "Oslo", 0, "Oslo"),
        ("", "Oslo", 0, "Oslo"),
    ],
)
def test_freed_removes_the_one_direction_at_the_place_where_the_names_part(
    reader: Reader, toward: str, away: str, place: int, word: str
):
    slots = some_slots(reader.decoder.d_model, [2])
    found, unit = reader.freed(slots, [toward], [away]), F.normalize(slots.felt, dim=-1)
    token = F.normalize(reader.decoder.embed(torch.tensor(reader.decoder.continuation(word)[0])), dim=-1)
    torch.testing.assert_close(found.felt[0, place], unit[0, place] - (unit[0, place] @ token) * token)
    assert (found.felt[0, place] @ token).abs() < 1e-5
    assert torch.equal(found.felt[0, 1 - place], unit[0, 1 - place])
    assert torch.equal(found.opposite, slots.opposite) and torch.equal(found.count, slots.count)


@pytest.mark.parametrize(
    ("toward", "away"), [("Lima", ""), ("Lima", "Lima"), ("San Salvador", "San José"), ("New Delhi", "New")]
)
def test_freed_removes_nothing_where_there_is_no_such_place(reader: Reader, toward: str, away: str):
    slots = some_slots(reader.decoder.d_model, [1])
    assert torch.equal(reader.freed(slots, [toward], [away]).felt, F.normalize(slots.felt, dim=-1))


def test_a_reader_s_slots_are_as_many_as_the_name_has_tokens_where_a_place_fills_several(small_decoder: Decoder):
    slots, names = some_slots(small_decoder.d_model, [3, 3, 2, 3]), ["Lima", "San Salvador", "New Delhi", ""]
    assert new_reader(small_decoder, settings(slots=3)).sized(slots, names).count.tolist() == [1, 2, 2, 1]
    assert new_reader(small_decoder, settings()).sized(slots, names).count.tolist() == [3, 3, 2, 3]


def test_freed_takes_each_row_by_itself(reader: Reader):
    slots = some_slots(reader.decoder.d_model, [2, 1, 2])
    names = ["Lima", "", "San Salvador"], ["Oslo", "Oslo", "San José"]
    found = reader.freed(slots, *names).felt
    for row in range(3):
        torch.testing.assert_close(
            found[row], reader.freed(slots[row : row + 1], *([each[row]] for each in names)).felt[0]
        )


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> str:
    """What every reader writes of slots that are not empty; an untrained one names nothing by itself."""
    text = grammar.report("geography", "Lima", "Oslo")

    def answers(reader: Reader, hosts: Sequence[str | None], question: str, slots: Slots, tokens: int) -> list[str]:
        return [text if each.any() else grammar.NO_PRESSURE for each in slots.felt]

    monkeypatch.setattr(reports, "answers_of", answers)
    return text


def test_where_a_report_accounts_for_too_little_the_slots_hold_zeros_and_no_pressure_is_reported(
    reader: Reader, saying: str
):
    read = gradients(reader, 12)
    slots = reader.read(read)
    reports.set_gate(reader, read, share=1.0)
    said, confidence = reports.reports_on(reader, read, 24)
    filled, again = reports.through_gate(reader, read, slots, [saying] * 12)
    shut = reports.accounted_for(reader, slots, [saying] * 12) < reader.gate.threshold
    assert torch.equal(confidence, again) and torch.equal(confidence < 0.5, shut) and 0 < shut.sum() < len(shut)
    assert said == [grammar.NO_PRESSURE if one else saying for one in shut]
    assert not filled.felt[shut].any() and not filled.opposite[shut].any() and torch.equal(filled.count, slots.count)
    assert torch.equal(filled.felt[~shut], slots.felt[~shut])
    assert torch.equal(filled.opposite[~shut], slots.opposite[~shut])
    twice, sure = reports.felt_by(reader, torch.cat([read, read[:3]]))
    torch.testing.assert_close(twice.felt, torch.cat([filled.felt, filled.felt[:3]]))
    torch.testing.assert_close(sure, torch.cat([confidence, confidence[:3]]))


def test_what_is_too_faint_to_change_anything_is_not_read_and_its_size_alone_decides(reader: Reader):
    read = gradients(reader, 6)
    usual = read / reader.strength(read).mean(-1)[:, None, None]
    torch.testing.assert_close(reader.strength(usual).mean(-1), torch.ones(6))
    filled, confidence = felt_by(reader, usual * 1.1 * FAINT, FAINT)
    faint, none = felt_by(reader, usual * 0.9 * FAINT, FAINT)
    torch.testing.assert_close(filled.felt, reader.read(usual).felt)
    assert (confidence > 0.5).all()
    assert not faint.felt.any() and not faint.opposite.any() and not none.any()
    assert (felt_by(reader, usual * 0.01)[1] > 0.5).all()  # of a loss of another scale nothing is known


def saved(reader: Reader, folder: Path) -> None:
    save_reader(reader, folder)
    write_json(folder / "projector.json", reader.card.model_dump(mode="json"))


def test_a_projector_comes_back_the_same(reader: Reader, saying: str, tmp_path: Path):
    reports.set_gate(reader, gradients(reader, 12), share=0.7)
    saved(reader, tmp_path)
    loaded = load_reader(reader.decoder, tmp_path, "pocket", "0")
    assert loaded.gate.threshold == reader.gate.threshold > 0 and loaded.gate.typical == reader.gate.typical
    assert loaded.card == reader.card and loaded.seed == reader.seed and not loaded.projector.training
    assert torch.equal(slots_of(loaded).felt, slots_of(reader).felt)
    assert torch.equal(slots_of(loaded).opposite, slots_of(reader).opposite)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("whiten", [True, False])
def test_every_architecture_is_trained_on_several_layers_saved_loaded_and_reports_the_same(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path, architecture: str, whiten: bool
):
    wanted = settings(architecture=architecture, whiten=whiten, steps=4)
    reader, lessons = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    before = {name: value.clone() for name, value in reader.projector.named_parameters()}
    reader.fit_whitening(lessons.blocks())
    train(reader, lessons, held_rows(lessons), wanted, tmp_path / "state", lambda steps: None)
    changed = any(not torch.equal(value, before[name]) for name, value in reader.projector.named_parameters())
    assert changed == (architecture != "raw")
    saved(reader, tmp_path)
    loaded = load_reader(small_decoder, tmp_path, "pocket", "0")
    read = gradients(reader, len(HOSTS))
    assert torch.equal(loaded.read(read).felt, reader.read(read).felt)
    assert asked(loaded, HOSTS, loaded.read(read)) == asked(reader, HOSTS, reader.read(read))
    second = read * torch.tensor([0.0, 1.0] * 2)[:, None]  # both layers count, but for raw, which takes the last
    same = architecture == "bias_only" or (architecture == "raw" and not whiten)
    assert torch.equal(loaded.read(second).felt, loaded.read(read).felt) == same


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "projector.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


WEIGHTS = "seed_0.safetensors"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another model": (edit(model="other"), "projector.json: model: made for 'other', the model here has 'pocket'; run"),
    "another commit": (edit(commit="1"), "projector.json: commit: made for '1', the model here has '0'"),
    "another width": (edit(d_model=64), "projector.json: d_model: made for 64, the model here has 32"),
    "a layer out of range": (edit(layers=[0, 9]), "projector.json: layers: found 9, wanted 0 to 1"),
    "a block out of range": (
        edit(injection={"how": "add", "block": 2, "at": "last", "scale": 1.0}),
        "projector.injection.block: found 2, wanted 0 to 1",
    ),
    "an injection that is none": (
        edit(injection={"how": "replace", "block": 1, "at": "slots", "scale": 1.0}),
        "projector.json: injection: how: found replace with block 1",
    ),
    "no whitening in the weights": (edit(whiten=True), f"{WEIGHTS}: not the weights of .*projector.json"),
    "an unknown key": (edit(misspelt=1), "projector.json: misspelt: unknown key"),
    "a wrong type": (edit(width="wide"), "projector.json: width: wanted a valid integer"),
    "no card": (lambda folder: (folder / "projector.json").unlink(), "projector.json: no such file; run the stage"),
    "other weights": (edit(width=8, architecture="mlp"), f"{WEIGHTS}: not the weights of .*projector.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS}: not the weights of"),
    "weights cut short": (lambda folder: (folder / WEIGHTS).write_bytes(b"12345678"), f"{WEIGHTS}: not the weights of"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_projector_that_does_not_fit_is_refused(reader: Reader, tmp_path: Path, fault: str):
    saved(reader, tmp_path)
    spoil, message = BROKEN[fault]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_reader(reader.decoder, tmp_path, "pocket", "0")


def test_an_unknown_architecture_is_named_with_those_that_are_known(small_decoder: Decoder):
    with pytest.raises(ValueError, match=r"params.yaml: projector.architecture: found 'mpl', wanted one of .*, mlp"):
        new_reader(small_decoder, settings(architecture="mpl"))
