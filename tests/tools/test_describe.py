"""Describe: what it shows is what the pipeline would measure; what it can't say, it says."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from ruamel.yaml import YAML

from stages.core.data.facts import Domain
from stages.core.data.grammar import parse_report
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.model import pocket
from stages.core.model.decoder import Decoder
from stages.core.model.opening import card_of
from stages.core.model.section import Pocket
from stages.core.reader.reports import written_reports
from stages.core.reader.saving import save_reader
from stages.core.run.files import write_json
from stages.tools import cli
from stages.tools.describe import Describer
from stages.tools.description import IDLE, NOTHING, Description, share
from tests.pipeline import tiny
from tests.tools.documented import arguments
from tests.tools.families import untrained

PROMPT, HOST = "The capital of France is", "The composer of Tosca is"
POCKET = {"d_model": 32, "layers": 2, "heads": 2, "steps": 60, "batch": 32, "learning_rate": 0.003}
POCKET |= {"muon_learning_rate": 0.02, "misconceptions": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params, facts, a small trained pocket model and an untrained projector. Read only."""
    root = tmp_path_factory.mktemp("described")
    (root / "params.yaml").write_text((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    tiny.edit_params(
        root,
        domains=list(tiny.DOMAINS),
        virtual_step={"layer": 1, "step_sizes": [0.5, 1.0], "top_tokens": 6, "continuation_tokens": 3},
        evaluation__report_tokens=8,
    )
    contents = [tiny.small_facts(name) for name in tiny.DOMAINS]
    for name, content in zip(tiny.DOMAINS, contents, strict=True):
        tiny.write_facts(root, name, content)
    domains = [Domain.model_validate(content) for content in contents]
    model, tokenizer, _ = pocket.train(domains, Pocket.model_validate(POCKET), root / "state", lambda _: None)
    folder = root / "data/model"
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    decoder = Decoder(model, tokenizer)
    write_json(folder / "model.json", card_of(decoder, "pocket", "pocket", "0" * 40).model_dump())
    reader = untrained(decoder, pocket.SLOT, layers=(0, 1), model="pocket")
    (root / "data/projector").mkdir()
    save_reader(reader, root / "data/projector")
    write_json(root / "data/projector/projector.json", reader.card.model_dump(mode="json"))
    return root


@pytest.fixture(scope="module")
def describer(root: Path) -> Describer:
    return Describer.open(root)


@pytest.fixture(scope="module")
def described(describer: Describer) -> Description:
    return describer(PROMPT, target="Madrid", host=HOST)


def test_two_lines_of_python_are_enough(root: Path, described: Description):
    from stages import describe

    assert describe(PROMPT, target="Madrid", host=HOST, root=root) == described


def test_what_is_shown_is_what_the_pipeline_measures(describer: Describer, described: Description):
    decoder = describer.reader.decoder
    sample = Sample(tuple(decoder.tokens(PROMPT)), tuple(decoder.continuation("Madrid")))
    measured = next(activation_gradients(decoder, [sample], [0, 1]))
    assert described.loss == pytest.approx(-float(measured.target_logprob[0]))
    assert described.strength == pytest.approx(np.linalg.norm(measured.gradient[0], axis=-1).tolist(), rel=1e-5)
    reader = describer.reader
    assert described.report == written_reports(reader, [HOST], torch.from_numpy(measured.gradient), 8)[0]
    assert described.without == written_reports(reader, [HOST], None, 8)[0]
    assert described.parsed == parse_report(described.report)


def test_the_step_raises_the_target_and_lists_as_many_tokens_as_asked(described: Description):
    assert [step.size for step in described.steps] == [0.5, 1.0]
    for step in described.steps:
        assert len(step.up) == len(step.down) == 6
        assert step.target_logprob > described.target_logprob and step.kl > 0
        assert ("Madrid", pytest.approx(step.target_logprob - described.target_logprob, abs=1e-3)) in step.up
        assert step.up[0][1] >= step.up[-1][1] > step.down[-1][1] >= step.down[0][1]


def test_the_projector_reads_its_own_layers_in_front_of_the_host(describer: Describer, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def report(_: object, hosts: list[str | None], gradients: torch.Tensor | None, tokens: int) -> list[str]:
        asked.append((hosts, None if gradients is None else gradients.shape, tokens))
        return ["no pressure"]

    monkeypatch.setattr("stages.tools.describe.written_reports", report)
    assert not describer(PROMPT, "Madrid", HOST).parsed.pressure
    assert asked == [([HOST], (1, 2, 32), 8), ([HOST], None, 8)]


def test_a_description_cannot_be_changed(described: Description):
    with pytest.raises(dataclasses.FrozenInstanceError):
        described.report = "mine"  # type: ignore[misc]


def test_the_answer_is_what_the_model_says_or_what_is_given(describer: Describer, described: Description):
    assert described.answer is None and described.answer_token == described.says.split()[0]
    given = describer(PROMPT, "Madrid", answer="New Delhi")
    assert (given.answer, given.answer_token) == ("New Delhi", "New")
    assert given.answer_logprob is not None and given.answer_logprob < 0


def test_white_space_does_not_matter(describer: Describer, described: Description):
    assert describer("  The capital of\n France is ", "Madrid ", HOST) == described


def test_a_target_that_the_model_says_already_is_noted(describer: Describer, described: Description):
    found = describer(PROMPT, target=described.says)
    assert found.loss < described.loss
    assert any(note.startswith(f"the model says {described.says!r} already") for note in found.notes)


def test_words_that_the_model_has_never_seen_are_noted(describer: Describer, described: Description):
    assert not described.notes
    notes = "\n".join(describer("My capital is", target="Zagreb", host="quux").notes)
    assert "'Zagreb' is no answer in data/facts" in notes
    for note in ("prompt: the pocket model has never seen 'My'", "target: the pocket model has never seen 'Zagreb'"):
        assert note in notes
    assert "host: the pocket model has never seen 'quux' and reads it letter by letter" in notes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": ""}, r"target: found no words, wanted some"),
        ({"prompt": " "}, r"prompt: found no words"),
        ({"target": "中国"}, r"target: '中国': the tokenizer of 'pocket' has no token for this"),
        ({"host": "In 中国 now"}, r"host: '中国': the tokenizer"),
        ({"answer": "Madrid"}, r"target and answer are both 'Madrid'"),
        ({"prompt": "a " * 200}, r"'a a .*': prompt and target longer than the context \(wanted at most 128 tokens\)"),
        ({"host": "a " * 200}, r"host: needs \d+ tokens with question and report, wanted at most 128"),
        ({"host": "<slot>"}, r"projector.slot_token: '<slot>' stands 4 times"),
    ],
)
def test_texts_that_cannot_be_measured_are_refused_by_name(describer: Describer, given: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        describer(**({"prompt": PROMPT, "target": "Madrid"} | given))


def test_no_model_and_no_projector_say_what_to_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"no such folder: wanted the repository's root"):
        Describer.open(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"params.yaml: no such file"):
        Describer.open(tmp_path)
    copy = tiny.copied(root, tmp_path / "copy")
    (copy / "data/projector/projector.json").unlink()
    with pytest.raises(ValueError, match=r"no projector has been trained here .* run make repro"):
        Describer.open(copy)
    (copy / "data/model/model.json").unlink()
    monkeypatch.chdir(copy)
    with pytest.raises(SystemExit, match=r"error: no model has been trained here .* run make repro"):
        cli.main(["describe", PROMPT, "--target", "Madrid"])


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
    for said in (PROMPT, HOST, "Madrid", "up", "down", "says, before", "says, after", IDLE):
        assert said in words
    for text in (described.report or NOTHING, described.without or NOTHING, described.says):
        assert " ".join(text.split()) in words
    assert str(described).count("\n") > 10


def test_the_html_escapes_what_it_shows_and_asks_nothing_of_the_network(describer: Describer):
    shown = describer("The <b>capital</b> of France is", target="Madrid", host=HOST)._repr_html_()
    assert "&lt;b&gt;capital" in shown and "<b>capital" not in shown
    assert "http" not in shown and "<script" not in shown
    assert shown.count("<div") == shown.count("</div>") == 1 and HOST in shown


def test_json_holds_everything(
    root: Path, described: Description, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(root)
    cli.main(["describe", PROMPT, "--target", "Madrid", "--host", HOST, "--json"])
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
