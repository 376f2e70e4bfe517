"""Requests are a pure function of shift, prompt file and params, and show what they may and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.api.chat import Fault, Request, answer_of, repair
from stages.core.api.section import Price
from stages.core.data.facts import read_domain
from stages.core.data.tables import VIRTUAL_STEP
from stages.core.labels import requests
from stages.core.labels.labeller import Job
from stages.core.labels.requests import label_requests, system_message
from stages.core.run.params import read_sections
from stages.labellers.openai import read_label
from stages.labels import Sections, job_of, main
from tests.labellers import world
from tests.labellers.server import completion


def job(rows: int = 4, **labels: Any) -> Job:
    world.write_world(rows, backend="openai", **labels)
    return job_of("geography", read_sections(Sections))


def bodies(job: Job) -> dict[str, bytes]:
    return {name: request.canonical for name, request in label_requests(job, job.params.teacher).items()}


def test_a_request_shows_the_shift_in_words():
    first = label_requests(job(), read_sections(Sections).labels.teacher)["geography-00000"]
    system, user = first.body["messages"]
    assert "one of: astronomy, chemistry, geography, music; or none" in system["content"]
    assert user["content"] == (
        "Continuation before: 'Paris .'\n"
        "Step 0.1\n  continuation after: 'Paris .'\n  up: 'New' +0.50, 'York' +0.50, 'the0' +0.50\n"
        "  down: 'Paris' -0.20, 'of' -0.25\n"
        "Step 0.3\n  continuation after: 'New York .'\n  up: 'New' +1.50, 'York' +1.50, 'the0' +0.50\n"
        "  down: 'Paris' -0.60, 'of' -0.25\n"
        "Step 1\n  continuation after: 'New York .'\n  up: 'New' +5.00, 'York' +5.00, 'the0' +0.50\n"
        "  down: 'Paris' -2.00, 'of' -0.25"
    )
    schema = first.body["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["additionalProperties"] is False
    assert set(schema["schema"]["required"]) == set(schema["schema"]["properties"])
    assert schema["schema"]["properties"]["domain"]["enum"] == ["astronomy", "chemistry", "geography", "music", "none"]


def test_the_teacher_sees_what_the_param_says():
    shown = {sees: str(bodies(job(teacher_sees=sees))) for sees in ("shift", "shift_and_prompt", "truth")}
    assert "The thing of subject 0" not in shown["shift"] and "True correction" not in shown["shift"]
    assert "Prompt: The thing of subject 0 is" in shown["shift_and_prompt"]
    assert "True correction" not in shown["shift_and_prompt"]
    assert "True correction: from Paris to New York" in shown["truth"]


@pytest.mark.parametrize(("sees", "may"), [("shift", ()), ("shift_and_prompt", ("prompt",))])
def test_what_the_teacher_may_not_see_changes_no_byte(sees: str, may: tuple[str, ...]):
    before = bodies(job(teacher_sees=sees))
    rows = pl.read_parquet("data/virtual_step/geography.parquet")
    hidden = [name for name in VIRTUAL_STEP if name.startswith(("target_", "answer_"))]
    world.write_shifts("geography", rows.with_columns(pl.col(name) + 3 for name in hidden).to_dicts())
    prompts = [world.correction(number)[1] for number in range(4)]
    columns = [name for name in prompts[0] if name not in ("prompt_id", *may) and isinstance(prompts[0][name], str)]
    world.write_prompts("geography", [row | dict.fromkeys(columns, "other") for row in prompts])
    assert bodies(job_of("geography", read_sections(Sections))) == before


def test_a_request_holds_nothing_of_other_rows_or_domains():
    many = job(12)
    few = dataclasses.replace(many, shifts=many.shifts.head(9), facts=(read_domain("geography"),))
    assert bodies(few).items() <= bodies(many).items()


def test_equal_bodies_have_equal_keys_whatever_their_order():
    body = next(iter(label_requests(job(), read_sections(Sections).labels.teacher).values())).body
    assert Request(body).key == Request(dict(reversed(body.items()))).key
    for change in ({"model": "x"}, {"temperature": 0.1}, {"seed": 1}, {"response_format": None}):
        assert Request(body | change).key != Request(body).key


def test_a_repair_shows_the_answer_and_what_is_wrong_with_it():
    request = next(iter(label_requests(job(), read_sections(Sections).labels.teacher).values()))
    price = Price(input=1, output=1, batch=1)
    answer = answer_of(completion("It is Paris."), "tiny", 100, price, batch=False, latency=0.0)
    with pytest.raises(Fault, match="not_json") as fault:
        read_label(answer, ["geography"])
    again = repair(request, answer, fault.value.name, fault.value.detail)
    assert again.body["messages"][:2] == request.body["messages"]
    assert again.body["messages"][2] == {"role": "assistant", "content": "It is Paris."}
    assert "not JSON" in again.body["messages"][3]["content"]


def test_an_example_from_an_evaluated_domain_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fields = ["geography", "sports", "food"]
    with pytest.raises(ValueError, match=r"prompt.md: has an example from sports"):
        system_message(fields, ["geography", "sports"])
    monkeypatch.setattr(requests, "PROMPT", tmp_path / "prompt.md")
    (tmp_path / "prompt.md").write_text("Fields?")
    with pytest.raises(ValueError, match=r"prompt.md: found {fields} 0 times"):
        system_message(fields, ["geography"])


def test_the_prompt_s_examples_name_no_entity_of_the_facts():
    text = requests.PROMPT.read_text(encoding="utf-8")
    facts = Path(__file__).parents[2] / "data" / "facts"
    world.write_world(1)
    for source in facts.glob("*.yaml"):
        Path("data/facts", source.name).write_bytes(source.read_bytes())
        for entity in read_domain(source.stem).entities:
            assert f'_to": "{entity}"' not in text and f'_from": "{entity}"' not in text


def test_a_domain_that_is_no_field_is_refused():
    world.write_world(2, backend="openai", fields=["geography", "astronomy"])
    with pytest.raises(ValueError, match=r"labels.fields: found no chemistry, wanted every one of labels.lexicon"):
        main(["geography", "--dry-run"])
