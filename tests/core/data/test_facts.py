"""The real facts keep the experiment's promises, and a broken facts file is refused by name and key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.core.data.facts import read_domain
from stages.core.labels.lexicon import words

ROOT = Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "data/facts").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


def test_there_are_eight_domains_or_more():
    assert len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_has_enough_facts_answers_relations_and_templates(name: str):
    domain = read_domain(name)
    assert sum(len(relation.facts) for relation in domain.relations.values()) >= 80
    assert len(domain.entities) >= 40
    assert len(domain.relations) >= 2
    assert all(len(relation.templates) >= 4 and relation.source for relation in domain.relations.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_gives_a_word_of_its_answer_away(name: str):
    for relation in read_domain(name).relations.values():
        for fact in relation.facts:
            for template in relation.templates:
                assert not set(words(fact.answer)) & set(words(template.format(subject=fact.subject)))


def test_no_answer_and_no_prompt_stands_twice_among_domains_and_relations():
    answers: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for name in NAMES:
        for key, relation in read_domain(name).relations.items():
            for fact in relation.facts:
                assert answers.setdefault(fact.answer, name) == name
                for template in relation.templates:
                    prompt = template.format(subject=fact.subject)
                    assert prompts.setdefault(prompt, f"{name} {key} {fact.answer}") == f"{name} {key} {fact.answer}"


def content() -> dict[str, Any]:
    """A facts file that is right."""
    return {
        "domain": "sport",
        "description": "made up",
        "relations": {
            "ball": {
                "source": "made up",
                "templates": ["The ball of {subject} is", "{subject} is played with a"],
                "facts": [{"subject": "tennis", "answer": "felt"}, {"subject": "golf", "answer": "dimpled one"}],
            }
        },
    }


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The file with its one relation changed."""
    found = content()
    change(found["relations"]["ball"])
    return found


BALL = "data/facts/sport.yaml: relations.ball"
BROKEN = {
    f"{BALL}.facts.1.answer: missing: wanted this key": edited(lambda ball: ball["facts"][1].pop("answer")),
    f"{BALL}.source: missing: wanted this key": edited(lambda ball: ball.pop("source")),
    f"{BALL}.facts: duplicate fact: subject 'golf' stands twice": edited(
        lambda ball: ball["facts"].append({"subject": "golf", "answer": "felt"})
    ),
    f"{BALL}.facts: the relation is empty: wanted at least one {{subject, answer}}": edited(
        lambda ball: ball.update(facts=[])
    ),
    f"{BALL}.facts: wanted a list (found None)": edited(lambda ball: ball.update(facts=None)),
    f"{BALL}: wanted keys with values (found None)": content() | {"relations": {"ball": None}},
    "data/facts/sport.yaml: (whole file): relations: wanted at least one relation": content() | {"relations": {}},
    f"{BALL}.facts.0.answer: wanted a valid string (found 1984)": edited(
        lambda ball: ball["facts"][0].update(answer=1984)
    ),
    f"{BALL}.facts.0.answer: found 'felt ', wanted words without": edited(
        lambda ball: ball["facts"][0].update(answer="felt ")
    ),
    f"{BALL}.facts: all facts share one answer": edited(lambda ball: ball["facts"][1].update(answer="felt")),
    f"{BALL}.templates: template 'No subject' must hold {{subject}} exactly once": edited(
        lambda ball: ball["templates"].append("No subject")
    ),
    f"{BALL}.templates: wanted at least 2 templates, found 1": edited(lambda ball: ball["templates"].pop()),
    f"{BALL}.templates: the same template stands twice": edited(
        lambda ball: ball["templates"].append(ball["templates"][0])
    ),
    f"{BALL}.facts.0.anwser: unknown key": edited(lambda ball: ball["facts"][0].update(anwser="felt")),
    "data/facts/sport.yaml: domain: found 'sports', wanted the file's name 'sport'": content() | {"domain": "sports"},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_file_is_refused_by_name_and_key(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("data/facts").mkdir(parents=True)
    with Path("data/facts/sport.yaml").open("w") as stream:
        YAML().dump(BROKEN[message], stream)
    with pytest.raises(ValueError) as caught:
        read_domain("sport")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n"])
def test_what_is_no_yaml_is_refused_in_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("data/facts").mkdir(parents=True)
    Path("data/facts/sport.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^data/facts/sport.yaml: not readable as YAML: [^\n]*line \d[^\n]*$"):
        read_domain("sport")


def test_an_unknown_domain_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"params.yaml: domains: unknown domain 'sport': .*geography, history"):
        read_domain("sport")
