"""What a pocket model is taught is read from files that fit together, or refused by name."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.core.data.held_out import HeldOut
from stages.core.model.sources import read_lessons
from tests.pipeline import tiny

ROOT = Path(__file__).parents[3]
OUT = HeldOut(names=0.1, kinds=[], subjects=0.0, seed=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in tiny.DOMAINS:
        tiny.write_facts(tmp_path, name, tiny.small_facts(name))
    shutil.copytree(ROOT / "data/questions", tmp_path / "data/questions")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def questions(**changes: Any) -> None:
    """Writes the file `mine`: the default's questions, changed; None leaves one out."""
    content = YAML(typ="safe").load(Path("data/questions/pressure.yaml").read_text(encoding="utf-8")) | changes
    with Path("data/questions/mine.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump({name: value for name, value in content.items() if value is not None}, stream)


def test_lessons_are_those_of_all_files(here: Path):
    with Path("data/questions/more.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(
            {"currency": {"expects": "toward", "forms": ["The currency of <felt> is", "<felt> pays in"]}}, stream
        )
    found = read_lessons(tiny.DOMAINS, ["pressure", "more"], OUT)
    assert [domain.domain for domain in found.domains] == list(tiny.DOMAINS)
    assert list(found.questions) == ["report", "toward", "away", "field", "kind", "choice", "currency"]
    assert found.held.names and found.held.closed == found.held.names


def test_a_world_without_a_bridge_is_refused(here: Path):
    for name in tiny.DOMAINS:
        content = tiny.small_facts(name)
        content["relations"] = dict([next(iter(content["relations"].items()))])
        tiny.write_facts(here, name, content)
    with pytest.raises(ValueError, match=r"data/facts of geography, music: a world without a single bridge"):
        read_lessons(tiny.DOMAINS, ["pressure"], OUT)


def test_an_unknown_kind_is_refused(here: Path):
    with pytest.raises(ValueError, match=r"params.yaml: held_out.kinds: found 'star', wanted .* city, country"):
        read_lessons(tiny.DOMAINS, ["pressure"], OUT.model_copy(update={"kinds": ["star"]}))


def test_an_unknown_set_of_questions_is_refused(here: Path):
    with pytest.raises(ValueError, match=r"questions: unknown set 'mine': .* \(known: identity, pressure\)"):
        read_lessons(tiny.DOMAINS, ["pressure", "mine"], OUT)


def test_a_question_in_two_files_is_refused(here: Path):
    questions(report=None, toward=None)
    with pytest.raises(ValueError, match=r"data/questions/mine.yaml: away: this name stands in another file"):
        read_lessons(tiny.DOMAINS, ["pressure", "mine"], OUT)


def test_a_set_without_a_question_that_the_training_asks_is_refused(here: Path):
    questions(away=None)
    with pytest.raises(ValueError, match=r"params.yaml: questions: found no question 'away' that .*mine"):
        read_lessons(tiny.DOMAINS, ["mine"], OUT)
    questions(away={"expects": "toward", "forms": ["<felt> from what ?", "<felt> whence ?"]})
    with pytest.raises(ValueError, match=r"found no question 'away' that expects 'away'"):
        read_lessons(tiny.DOMAINS, ["mine"], OUT)
