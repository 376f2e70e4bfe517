"""Describe: what it shows is what the pipeline would measure; what it can't say, it says."""

import contextlib
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from ruamel.yaml import YAML

from stages.core.data.gathering import gather
from stages.core.data.grammar import parse_report, report
from stages.core.data.held_out import HeldOut
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.evaluate.interview import at_subject
from stages.core.model.names import SLOT
from stages.core.model.opening import open_model
from stages.core.model.section import Model
from stages.core.model.sources import read_lessons, train_pocket
from stages.core.reader.injection import Slots
from stages.core.reader.reader import save_reader
from stages.core.reader.reports import answers_of, felt_by
from stages.core.run.files import write_json
from stages.tools import cli
from stages.tools.describe import Describer
from stages.tools.description import IDLE, NOTHING, Asked, Description, share
from tests.pipeline import tiny
from tests.pipeline.warm import Warm
from tests.tools.documented import arguments
from tests.tools.families import untrained

PROMPT, HOST = "The capital of France is", "The composer of Tosca is"
ASK = ("The country around <felt> is", "<felt> away <opposite> toward what ?")
PLACES = ("target_1", "target_2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params, facts, a small trained pocket model and an untrained projector. Read only."""
    root = tmp_path_factory.mktemp("described")
    (root / "params.yaml").write_text((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (root / "data").mkdir()
    shutil.copytree(tiny.ROOT / "data/questions", root / "data/questions")
    pocket = {"misconceptions": 0.0, "steps": 100, "batch": 16, "slot_batch": 12}
    pocket |= {"learning_rate": 0.003, "muon_learning_rate": 0.02}
    tiny.edit_params(
        root,
        domains=list(tiny.DOMAINS),
        virtual_step={"layer": 1, "step_sizes": [0.5, 1.0], "top_tokens": 6, "continuation_tokens": 3},
        evaluation__report_tokens=8,
        projector__layers=[1],
        **{f"model__pocket__{key}": value for key, value in {**tiny.SMALL["model.pocket"], **pocket}.items()},
    )
    for name in tiny.DOMAINS:
        tiny.write_facts(root, name, tiny.small_facts(name))
    settings = Model.model_validate(YAML(typ="safe").load((root / "params.yaml").read_text(encoding="utf-8"))["model"])
    folder = root / "data/model"
    folder.mkdir()
    with contextlib.chdir(root):
        lessons = read_lessons(
            tiny.DOMAINS, ["pressure"], HeldOut.model_validate({**tiny.SMALL["held_out"], "seed": 0})
        )
        train_pocket(lessons, settings, "pocket", root / "state", folder, lambda _: None)
        decoder, card = open_model()
    reader = untrained(decoder, SLOT, layers=(0, 1), model=card.id, places=PLACES)
    reader.card = reader.card.model_copy(update={"commit": card.commit})
    (root / "data/projector").mkdir()
    save_reader(reader, root / "data/projector")
    write_json(root / "data/projector/projector.json", reader.card.model_dump(mode="json"))
    return root


@pytest.fixture(scope="module")
def describer(root: Path) -> Describer:
    return Describer.open(root)


@pytest.fixture(scope="module")
def described(describer: Describer) -> Description:
    return describer(PROMPT, target="Berlin", host=HOST, ask=ASK)


def test_two_lines_of_python_are_enough(root: Path, described: Description):
    from stages import describe

    assert describe(PROMPT, target="Berlin", host=HOST, ask=ASK, root=root) == described


def slots_of(describer: Describer, target: str) -> tuple[np.ndarray, float, Slots]:
    """The gradients of PROMPT and a target [place, layer, d_model], the log-probability, and what slots hold."""
    decoder = describer.reader.decoder
    sample = Sample(tuple(decoder.tokens(PROMPT)), tuple(decoder.continuation(target)))
    measured = next(activation_gradients(decoder, [sample], [0, 1], PLACES))
    slots, confidence = felt_by(describer.reader, torch.from_numpy(measured.gradient))
    assert confidence[0] > 0.5
    return measured.gradient.reshape(2, 2, -1), float(measured.target_logprob[0]), slots


def test_what_is_shown_is_what_the_pipeline_measures(describer: Describer, described: Description):
    gradient, logprob, slots = slots_of(describer, "Berlin")
    assert described.loss == pytest.approx(-logprob)
    usual = describer.reader.card.reference
    assert described.strength == pytest.approx((np.linalg.norm(gradient[0], axis=-1) / usual).tolist(), rel=1e-5)
    reader, question = describer.reader, describer.reader.card.question
    said = [answers_of(reader, [HOST], question, filled, 8)[0] for filled in (slots, None)]
    assert [described.report, described.without] == said
    assert described.parsed == parse_report(described.report)


def test_any_question_is_answered_from_the_same_slots_without_the_host(describer: Describer, described: Description):
    _, _, slots = slots_of(describer, "Berlin")
    for question, found in zip(ASK, described.asked, strict=True):
        said = (answers_of(describer.reader, [None], question, filled, 8)[0] for filled in (slots, None))
        assert found == Asked(question, *said)


def test_a_name_of_several_tokens_is_read_a_slot_a_token(describer: Describer):
    _, _, slots = slots_of(describer, "New Delhi")
    assert slots.count.tolist() == [2]
    question = ASK[0]
    asked = describer(PROMPT, "New Delhi", ask=[question]).asked
    assert asked[0].answer == answers_of(describer.reader, [None], question, slots, 8)[0]


def test_of_a_sentence_the_slots_of_its_name_alone_are_read(describer: Describer, monkeypatch: pytest.MonkeyPatch):
    read = []

    def answers(
        _: object, hosts: list[str | None], questions: list[str], slots: Slots | None, tokens: int
    ) -> list[str]:
        read.append(None if slots is None else slots.count.tolist())
        return ["no pressure"] * len(hosts)

    monkeypatch.setattr("stages.tools.describe.longest_names", lambda *_: [report("geography", "Berlin", "Paris")])
    monkeypatch.setattr("stages.tools.describe.answers_of", answers)
    describer(PROMPT, "Berlin . The capital of Italy is")
    describer(PROMPT, "New Delhi")
    assert [count for count in read if count] == [[1], [2]]  # without `ask`: the report alone is read from slots


def test_without_a_projector_the_raw_update_direction_answers(root: Path, tmp_path: Path):
    copy = tiny.copied(root, tmp_path / "copy")
    shutil.rmtree(copy / "data/projector")
    describer = Describer.open(copy)
    found = describer(PROMPT, "Berlin", ask=ASK)
    assert found.projector == "raw" and found.projector_layers == (1,) and found.strength == ()
    assert not list(describer.reader.trained.parameters()) and [one.question for one in found.asked] == list(ASK)
    assert "no projector is here" in found.notes[0] and "usual norm" not in str(found)


@pytest.mark.parametrize("question", ["The currency of it is", "<felt> and <felt>"])
def test_a_question_has_one_place_for_the_felt_update(describer: Describer, question: str):
    with pytest.raises(ValueError, match=r"wanted <felt> exactly once, where the felt update goes"):
        describer(PROMPT, "Berlin", ask=[question])


def test_the_step_raises_the_target_and_lists_as_many_tokens_as_asked(described: Description):
    assert [step.size for step in described.steps] == [0.5, 1.0]
    for step in described.steps:
        assert len(step.up) == len(step.down) == 6
        assert step.target_logprob > described.target_logprob and step.kl > 0
        assert ("Berlin", pytest.approx(step.target_logprob - described.target_logprob, abs=1e-3)) in step.up
        assert step.up[0][1] >= step.up[-1][1] > step.down[-1][1] >= step.down[0][1]


def test_the_projector_reads_its_own_layers_in_front_of_the_host(describer: Describer, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def answers(
        _: object, hosts: list[str | None], questions: list[str], slots: Slots | None, tokens: int
    ) -> list[str]:
        asked.append((hosts, questions, None if slots is None else slots.felt.shape, tokens))
        return ["no pressure"] * len(hosts)

    monkeypatch.setattr("stages.tools.describe.answers_of", answers)
    assert not describer(PROMPT, "Berlin", HOST).parsed.pressure
    question = describer.reader.card.question
    assert asked[:2] == [([HOST], [question], (1, 2, 32), 8), ([HOST], [question], None, 8)]


def test_a_description_cannot_be_changed(described: Description):
    with pytest.raises(dataclasses.FrozenInstanceError):
        described.report = "mine"  # type: ignore[misc]


def test_the_answer_is_what_the_model_says_or_what_is_given(describer: Describer, described: Description):
    assert described.answer is None and described.answer_token == described.says.split()[0]
    given = describer(PROMPT, "Berlin", answer="New Delhi")
    assert (given.answer, given.answer_token) == ("New Delhi", "New")
    assert given.answer_logprob is not None and given.answer_logprob < 0


def test_white_space_does_not_matter(describer: Describer, described: Description):
    assert describer("  The capital of\n France is ", "Berlin ", HOST, ask=[f" {ASK[0]}", ASK[1]]) == described


def test_a_target_that_the_model_says_already_is_noted(describer: Describer, described: Description):
    found = describer(PROMPT, target=described.says)
    assert found.loss < described.loss
    assert any(note.startswith(f"the model says {described.says!r} already") for note in found.notes)


def test_words_that_the_model_has_never_seen_are_noted(describer: Describer, described: Description):
    assert not described.notes
    notes = "\n".join(describer("My capital is", target="Zagreb", host="quux", ask=["a blorb <felt>"]).notes)
    assert "'Zagreb' is no answer in data/facts" in notes
    for note in ("prompt: the pocket model has never seen 'My'", "target: the pocket model has never seen 'Zagreb'"):
        assert note in notes
    assert "host: the pocket model has never seen 'quux' and reads it letter by letter" in notes
    assert "ask: the pocket model has never seen 'blorb'" in notes and "felt" not in notes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": ""}, r"target: found no words, wanted some"),
        ({"prompt": " "}, r"prompt: found no words"),
        ({"target": "中国"}, r"target: '中国': the tokenizer of 'pocket' has no token for this"),
        ({"host": "In 中国 now"}, r"host: '中国': the tokenizer"),
        ({"answer": "Berlin"}, r"target and answer are both 'Berlin'"),
        ({"prompt": "a " * 200}, r"'a a .*': prompt and target longer than the context \(wanted at most 128 tokens\)"),
        (
            {"host": "a " * 200},
            r"question '<felt> .*': found \d+ tokens with its host prompt, wanted fewer than .* 128",
        ),
        ({"host": "a " * 114}, r"question '<felt> .*': needs \d+ tokens with its host and answer, wanted at most 128"),
        ({"ask": ["<felt> 中国"]}, r"ask: '中国': the tokenizer"),
        ({"host": "<slot>"}, r"projector.slot_token: '<slot>' stands 3 times"),
    ],
)
def test_texts_that_cannot_be_measured_are_refused_by_name(describer: Describer, given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        describer(**({"prompt": PROMPT, "target": "Berlin"} | given))


def test_no_model_says_what_to_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"no such folder: wanted the repository's root"):
        Describer.open(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"params.yaml: no such file"):
        Describer.open(tmp_path)
    copy = tiny.copied(root, tmp_path / "copy")
    (copy / "data/model/model.json").unlink()
    monkeypatch.chdir(copy)
    with pytest.raises(SystemExit, match=r"error: no model has been trained here .* run make repro"):
        cli.main(["describe", PROMPT, "--target", "Berlin"])


def test_a_step_at_a_layer_that_is_not_there_names_the_param(root: Path, tmp_path: Path):
    copy = tiny.copied(root, tmp_path / "copy")
    tiny.edit_params(copy, virtual_step__layer=7)
    with pytest.raises(ValueError, match=r"params.yaml: virtual_step.layer: found 7, wanted 0 to 1"):
        Describer.open(copy)


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_fits_the_terminal_and_says_it_all(described: Description, width: int):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(described)
    shown = captured.get()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width and "…  " not in shown
    words = " ".join(shown.split())
    for said in (PROMPT, HOST, "Berlin", "up", "down", "says, before", "says, after", IDLE):
        assert said in words
    texts = [text for one in described.asked for text in (one.question, one.answer)]
    for text in (described.report or NOTHING, described.without or NOTHING, described.says, *texts):
        assert " ".join(text.split()) in words
    assert str(described).count("\n") > 10


def test_the_html_escapes_what_it_shows_and_asks_nothing_of_the_network(describer: Describer):
    shown = describer("The <b>capital</b> of France is", target="Berlin", host=HOST)._repr_html_()
    assert "&lt;b&gt;capital" in shown and "<b>capital" not in shown
    assert "http" not in shown and "<script" not in shown
    assert shown.count("<div") == shown.count("</div>") == 1 and HOST in shown


def test_json_holds_everything(
    root: Path, described: Description, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(root)
    asked = [word for question in ASK for word in ("--ask", question)]
    cli.main(["describe", PROMPT, "--target", "Berlin", "--host", HOST, *asked, "--json"])
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert found.pop("parsed") == dataclasses.asdict(described.parsed)
    assert found == json.loads(json.dumps(dataclasses.asdict(described)))
    assert printed.err == "", "logs are quiet"


def test_the_documented_commands_run(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(root)
    for command in arguments("describe.md"):
        cli.main(command)
        assert "London" in capsys.readouterr().out


def test_shares_are_readable():
    assert [share(math.log(p)) for p in (1.0, 0.5, 0.095, 0.0123, 0.0001)] == ["100%", "50%", "9.5%", "1.2%", "<0.1%"]
    assert share(1e-6) == "100%"


def test_params_that_are_wrong_are_named(root: Path, tmp_path: Path):
    copy = tiny.copied(root, tmp_path / "copy")
    content = YAML(typ="safe").load((copy / "params.yaml").read_text())
    del content["virtual_step"]["step_sizes"]
    YAML().dump(content, copy / "params.yaml")
    with pytest.raises(ValueError, match=r"params.yaml: virtual_step.step_sizes: missing"):
        Describer.open(copy)


def test_at_a_subject_it_reads_what_the_evaluation_reads_there(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch):
    describer = Describer.open(tiny_pipeline)
    monkeypatch.chdir(tiny_pipeline)
    data = gather(tiny.DOMAINS, describer.reader.card.layers, places=describer.reader.card.places)
    reader, there = at_subject(describer.reader.decoder, describer.reader.card, data) or pytest.fail("no subject")
    case = data.rows.filter(split="test", kind="counterfactual").row(0, named=True)
    slots = reader.read(torch.from_numpy(there.gradient[np.array([case["row"]])]))
    found = describer(case["prompt"], case["target"], answer=case["answer"], subject=case["subject"])
    assert found.at_subject == answers_of(reader, [None], reader.card.question, slots, describer.tokens)[0]
    assert found.subject == case["subject"] and 0 <= (found.explained_at_subject or 0) <= 1
    assert f"at the last token of \u201c{case['subject']}\u201d" in str(found)
    for wrong in ("Tosca", case["subject"][:-1]):
        with pytest.raises(ValueError, match=rf"subject: found '{wrong}', wanted words of the prompt"):
            describer(case["prompt"], case["target"], subject=wrong)


def test_without_gradients_at_subjects_it_says_what_to_run(tiny_pipeline: Path, tmp_path: Path, warm_python: Warm):
    copied = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.edit_params(copied, gradients__places=["target_1", "target_2", "target_3"])
    for domain in tiny.DOMAINS:
        warm_python.run(copied, "gradients", domain)
    with pytest.raises(ValueError, match=r"data/gradients: found no gradients at a subject's token.*gradients.places"):
        Describer.open(copied)(PROMPT, "Oslo", subject="France")
