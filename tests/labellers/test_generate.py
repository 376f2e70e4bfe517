"""Generated prompts and wrong answers are validated against the facts, repaired once, and never stand twice."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import prompts
from stages.core.api.section import Api
from stages.core.data.corrections import Generator, Material, Prompts
from stages.core.data.facts import Domain, read_domain
from stages.generators.openai import material
from tests.labellers import world
from tests.labellers.server import Asked, Reply, Script, Server, completion, is_repair

PARAMS = Generator.model_validate(
    {"paraphrases": 2, "wrong_answers": 2, "way": "online", "max_quarantined": 0.2, "teacher": world.TEACHER}
)
SECTION = {"generator": "openai", "openai": PARAMS.model_dump(), "targets": 6, "correction_templates": 1}
SECTION |= {"further_targets": 0, "validation": 0.1, "test": 0.2, "seed": 1}
API = Api.model_validate({"budget": 1.0, "prices": {"tiny": {"input": 1.0, "output": 2.0, "batch": 0.5}}})
USAGE = Path(".cache/labels/usage/prompts-geography.json")
Writer = Callable[[str, str, bool], dict[str, Any]]


@pytest.fixture
def domain() -> Domain:
    world.write_facts()
    return read_domain("geography")


def scripted(write: Writer) -> Script:
    """A server that answers with what `write(subject, answer, is_repair)` writes."""

    def script(asked: Asked) -> Reply:
        lines = dict(line.split(": ", 1) for line in asked.body["messages"][1]["content"].split("\n") if ": " in line)
        return Reply(completion(json.dumps(write(lines["Subject"], lines["Answer"], is_repair(asked)))))

    return script


def generate(domain: Domain, **changes: Any) -> tuple[dict[tuple[str, str], Material], dict[str, Any]]:
    """What is generated with changed keys of PARAMS, and the metrics of the answers."""
    section = Prompts.model_validate(SECTION).model_copy(update={"openai": PARAMS.model_copy(update=changes)})
    facts = material(domain, section, API)
    return facts, json.loads(USAGE.read_text())["answers"]


def written(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, write: Writer, **changes: Any
) -> tuple[dict[tuple[str, str], Material], dict[str, Any]]:
    """What generation makes of a model that writes `write(subject, answer, is_repair)`."""

    with Server(scripted(write)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        facts, metrics = generate(domain, **changes)
        assert generate(domain, **changes)[0] == facts
    return facts, metrics


def good(subject: str, answer: str, repaired: bool) -> dict[str, Any]:
    prompts = [f"People who know {subject} well think of", f"What belongs to {subject} is"]
    return {"prompts": prompts, "wrong_answers": ["paris" if answer != "Paris" else "guinea", "Timbuktu"]}


def test_paraphrases_become_templates_and_wrong_answers_take_the_facts_spelling(domain: Domain, monkeypatch):
    facts, metrics = written(domain, monkeypatch, good)
    assert len(facts) == 6 and metrics["calls"] == 6
    name, first = list(facts.items())[1]
    assert name == ("thing", "subject 1")
    assert first.templates == ("People who know {subject} well think of", "What belongs to {subject} is")
    assert first.wrong_answers == ("Paris", "Timbuktu")


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("wanted 'subject 2' in it once", {"prompts": ["This is", "What belongs to {s} is"]}),
        ("wanted 'subject 2' in it once", {"prompts": ["{s} is {s} is", "What belongs to {s} is"]}),
        ("it holds the answer", {"prompts": ["{s} has new zealand, and", "What belongs to {s} is"]}),
        ("wanted no punctuation mark", {"prompts": ["{s} has:", "What belongs to {s} is"]}),
        ("wanted no braces", {"prompts": ["{s} has {{it}}", "What belongs to {s} is"]}),
        ("it stands twice", {"prompts": ["What belongs to {s}, is", "What belongs to {s} is"]}),
        ("it stands twice", {"prompts": ["The thing of {s} is", "What belongs to {s} is"]}),  # the facts have it
        ("it is true", {"wrong_answers": ["New  zealand", "Timbuktu"]}),
        ("the subject itself", {"wrong_answers": ["Subject 2", "Timbuktu"]}),
        ("stands twice", {"wrong_answers": ["timbuktu", "Timbuktu"]}),
        ("empty", {"wrong_answers": [" ", "Timbuktu"]}),
    ],
)
def test_what_the_facts_contradict_is_repaired_or_dropped(
    domain: Domain, monkeypatch, why: str, change: dict[str, Any]
):
    prompts = [prompt.format(s="subject 2") for prompt in change.get("prompts", [])]

    def write(subject: str, answer: str, repaired: bool) -> dict[str, Any]:
        wrong = change | ({"prompts": prompts} if prompts else {})
        return good(subject, answer, repaired) | (wrong if subject == "subject 2" and not repaired else {})

    facts, metrics = written(domain, monkeypatch, write)
    assert len(facts) == 6 and metrics["repairs"] == 1

    def stubborn(subject: str, answer: str, repaired: bool) -> dict[str, Any]:
        return write(subject, answer, False)

    facts, metrics = written(domain, monkeypatch, stubborn, teacher=PARAMS.teacher.model_copy(update={"seed": 5}))
    assert [subject for _, subject in facts] == [f"subject {n}" for n in (0, 1, 3, 4, 5)]
    assert metrics["faults"] == {"inconsistent": 1}
    with pytest.raises(ValueError, match=rf"prompts.openai.max_quarantined: found 1 of 6 .*{why}"):
        teacher = PARAMS.teacher.model_copy(update={"seed": 5})
        generate(domain, teacher=teacher, max_quarantined=0.0)


def test_more_than_wanted_makes_up_for_what_is_not_valid(domain: Domain, monkeypatch):
    def write(subject: str, answer: str, repaired: bool) -> dict[str, Any]:
        return {
            "prompts": ["no", *good(subject, answer, repaired)["prompts"], f"{subject} and"],
            "wrong_answers": ["a", "b", "c"],
        }

    facts, metrics = written(domain, monkeypatch, write)
    assert metrics["repairs"] == 0
    assert all(len(fact.templates) == 2 and fact.wrong_answers == ("a", "b") for fact in facts.values())


def test_the_same_prompt_of_two_facts_stays_once(monkeypatch):
    world.write_facts()
    content = read_domain("geography").model_dump()
    content["relations"]["other"] = content["relations"]["thing"] | {
        "templates": ("{subject} owns", "Of {subject} comes")
    }
    domain = Domain.model_validate(content)
    facts, metrics = written(domain, monkeypatch, good)
    prompts = [
        template.replace("{subject}", subject) for (_, subject), fact in facts.items() for template in fact.templates
    ]
    assert len(prompts) == len(set(prompts)) == 12 and metrics["duplicates"] == 12


def test_the_stage_adds_what_was_written_to_the_table_and_pays_once(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    held_out = {"names": 0.1, "kinds": [], "subjects": 0.1, "seed": 1}
    world.write_params(world.params() | {"held_out": held_out, "prompts": SECTION})
    path = Path("data/prompts/geography.parquet")

    def stage(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["prompts", "geography", *arguments])
        prompts.main()
        return capsys.readouterr().out

    assert "geography: openai: 6 requests, 0 cached, 6 calls" in stage("--dry-run") and not path.exists()
    with Server(scripted(good)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        stage()
        first = path.read_bytes()
        stage()
        assert len(server.asked) == 6 and path.read_bytes() == first
    table = pl.read_parquet(path)
    assert {"People who know {subject} well think of", "What belongs to {subject} is"} < set(table["template"])
    assert "Timbuktu" in set(table["target"])
    templates = table.filter(pl.col("held_out") == "template")["template"].unique().to_list()
    assert templates == ["{subject} has"]  # the facts' own last template, as without a generator
    seen = table.filter(pl.col("held_out") == "none")
    assert seen.group_by("prompt").agg(pl.col("split").n_unique())["split"].max() == 1
    usage = json.loads(USAGE.read_text())
    assert usage["answers"]["calls"] == 6 and usage["run"] == usage["run"] | {"asked": 0, "cached": 6}
    world.write_params(world.params() | {"held_out": held_out, "prompts": SECTION | {"generator": "facts"}})
    assert stage("--dry-run") == "geography: facts: 0 calls, 0 tokens, 0 USD\n"
    stage()
    assert set(pl.read_parquet(path)["template"]) <= {"The thing of {subject} is", "{subject} has"}
