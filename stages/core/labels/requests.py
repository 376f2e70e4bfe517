"""Requests for labels: a pure function of shifts, prompt file and params.

A request holds nothing of other rows, other domains or the lexicon, so that a new domain asks for its own rows only.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from ..api.chat import Request, Said, compose
from ..api.section import Teacher
from ..run.errors import InputError
from .labeller import Job, by_prompt

PROMPT = Path(__file__).parents[2] / "labellers" / "prompt.md"
NONE = "none"
Words = Annotated[str, StringConstraints(strip_whitespace=True)]


class TeacherLabel(Said):
    """A teacher's reading of one shift."""

    summary: Annotated[Words, Field(description="The correction in one short sentence.")]
    moved_from: Annotated[Words, Field(description='What the model moves away from, or "" if it can\'t be told.')]
    moved_to: Annotated[Words, Field(description='What the model moves toward, or "" if it can\'t be told.')]
    domain: Annotated[Words, Field(description="The field of knowledge of moved_to.")]
    confidence: Annotated[float, Field(ge=0, le=1, description="How sure you are, from 0 to 1.")]


def system_message(fields: Sequence[str], domains: Sequence[str]) -> str:
    """The system message: the prompt file with the names of the fields filled in.

    Raises:
        InputError: a domain is not among the fields, the file has no place for them, or an example in it is from a
            domain that is evaluated, which would teach the teacher to the test.
    """
    if missing := [name for name in domains if name not in fields]:
        raise InputError(
            f"params.yaml: labels.fields: found no {', '.join(missing)}, wanted every one of labels.lexicon "
            "among them; adding a field changes every request, so all rows are asked again (see --dry-run)"
        )
    text = PROMPT.read_text(encoding="utf-8")
    if text.count("{fields}") != 1:
        raise InputError(f"{PROMPT.name}: found {{fields}} {text.count('{fields}')} times, wanted it once")
    if shown := sorted({name for name in re.findall(r'"domain": "([^"]*)"', text) if name in domains}):
        raise InputError(
            f"{PROMPT.name}: has an example from {', '.join(shown)}, which params.yaml: domains evaluates; "
            "wanted examples from other domains; exchange the example"
        )
    return text.replace("{fields}", ", ".join(fields)).strip()


def label_requests(job: Job, teacher: Teacher) -> dict[str, Request]:
    """The teacher's request for each prompt_id, in order of first occurrence."""
    system = system_message(job.params.fields, [domain.domain for domain in job.facts])
    schema = TeacherLabel.model_json_schema()
    schema["properties"]["domain"]["enum"] = [*job.params.fields, NONE]
    shown = {} if job.prompts is None else {row["prompt_id"]: row for row in job.prompts.iter_rows(named=True)}
    requests = {}
    for prompt_id, steps in by_prompt(job.shifts):
        if job.prompts is not None and prompt_id not in shown:
            raise InputError(f"data/prompts/{job.domain}.parquet: no prompt_id {prompt_id!r}; rerun virtual_step")
        user = user_message(steps, shown.get(prompt_id, {}), job.params.top_tokens)
        requests[prompt_id] = compose(teacher, system, user, schema)
    return requests


def user_message(steps: Sequence[dict[str, Any]], shown: dict[str, Any], top_tokens: int) -> str:
    """The user message: one shift in words, in nats with two decimals. `shown`: what teacher_sees adds to the shift."""
    lines = []
    if "prompt" in shown:
        lines.append(f"Prompt: {shown['prompt']}")
    if "target" in shown:
        answer = shown["answer"] or "what the model would say"
        lines.append(f"True correction: from {answer} to {shown['target']}")
    lines.append(f"Continuation before: {steps[0]['continuation_before']!r}")
    for step in steps:
        lines.append(f"Step {step['step_size']:.3g}")
        lines.append(f"  continuation after: {step['continuation_after']!r}")
        for way in ("up", "down"):
            pairs = list(zip(step[f"{way}_tokens"], step[f"{way}_shifts"], strict=True))[:top_tokens]
            lines.append(f"  {way}: " + (", ".join(f"{token!r} {shift:+.2f}" for token, shift in pairs) or "nothing"))
    return "\n".join(lines)
