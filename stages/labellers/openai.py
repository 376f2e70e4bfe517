"""The teacher behind a server that speaks the OpenAI API: OpenAI, vLLM, `transformers serve`, a gateway.

The answers stand in .cache/labels, so that another reading of them asks nothing, and another domain asks for its own
rows only. The prompt is prompt.md.
"""

from collections.abc import Sequence

import polars as pl

from ..core.api.chat import Answer, Fault, Request, read
from ..core.api.converse import Read, converse
from ..core.api.spend import Origin, Usage
from ..core.api.spend import estimate as bill
from ..core.data.tables import LABELS
from ..core.labels.agreement import recurring
from ..core.labels.labeller import QUARANTINE, Job, Outcome
from ..core.labels.lexicon import Lexicon
from ..core.labels.requests import NONE, TeacherLabel, label_requests
from ..core.run.seeds import keyed_fraction

BUILT_IN = ("stages/core/labels/requests.py", "stages/labellers/prompt.md")
MADE_OF = ("backend", "teacher_sees", "fields", "top_tokens", "teacher")
"""The keys of section labels that a request holds something of."""


def estimate(job: Job) -> str:
    """What labelling would cost, in words; asks nothing."""
    rows = job.shifts["prompt_id"].n_unique()
    requests = [*label_requests(job, job.params.teacher).values(), *second_requests(job).values()]
    return f"{rows} rows, {bill(requests, job.api, job.params)}"


def label(job: Job) -> Outcome:
    """Labels every prompt of the job, and a sample with the second teacher.

    Raises:
        InputError: too many answers are in quarantine, or asking had to stop: no key, no budget, no server.
    """
    usage = Usage()
    first = ask(job, label_requests(job, job.params.teacher), job.domain, usage)
    second = ask(job, second_requests(job), f"{job.domain}, second teacher", usage, "second")
    labels = table_of(first, job)
    wordings = recurring(labels, job.params.recurring)
    metrics = first.metrics() | {"recurring": len(wordings), "recurring_wordings": wordings}
    quarantine = quarantine_of(first, job.params.teacher.model)
    if job.params.second:
        metrics["second_calls"] = second.metrics()
        metrics["cost_usd"] = round(metrics["cost_usd"] + metrics["second_calls"]["cost_usd"], 6)
        quarantine = pl.concat([quarantine, quarantine_of(second, job.params.second.teacher.model)])
    return Outcome(labels, quarantine, table_of(second, job), metrics, vars(usage))


def ask(job: Job, requests: dict[str, Request], what: str, usage: Usage, *more: str) -> Read[str, TeacherLabel]:
    """The labels in the answers to the requests; `more`: keys of section labels beside MADE_OF that these hold."""
    files = [f"data/virtual_step/{job.domain}.parquet"]
    if job.prompts is not None:
        files.append(f"data/prompts/{job.domain}.parquet")
    params = {"labels": job.params.model_dump(include={*MADE_OF, *more})}
    return converse(
        requests, lambda _, answer: read_label(answer, job.params.fields), job.api, job.params, section="labels",
        what=what, usage=usage, origin=Origin(f"labels@{job.domain}", (*files, *BUILT_IN), params),
    )  # fmt: skip


def read_label(answer: Answer, fields: Sequence[str]) -> TeacherLabel:
    """The label in a teacher's answer, whose domain is one of `fields` or "none".

    Raises:
        Fault: the answer can't be used.
    """
    label = read(answer, TeacherLabel)
    if label.domain not in (*fields, NONE):
        raise Fault("wrong_enum", f"domain: found {label.domain!r}, wanted one of {', '.join([*fields, NONE])}")
    if (label.domain == NONE) != (not label.moved_to and not label.moved_from):
        raise Fault("inconsistent", f'domain {label.domain!r}: wanted "none" exactly when both entities are empty')
    return label


def second_requests(job: Job) -> dict[str, Request]:
    """The second teacher's requests: for a share of the prompts, the same whatever else is labelled."""
    second = job.params.second
    if second is None:
        return {}
    requests = label_requests(job, second.teacher)
    return {name: asked for name, asked in requests.items() if keyed_fraction(second.seed, name) < second.share}


def table_of(found: Read[str, TeacherLabel], job: Job) -> pl.DataFrame:
    """The labels table; entities that the lexicon knows are in its spelling."""
    lexicon = Lexicon(job.facts)
    rows = [
        {
            "prompt_id": prompt_id,
            "summary": label.summary,
            "moved_from": lexicon.spelt(label.moved_from),
            "moved_to": lexicon.spelt(label.moved_to),
            "domain": "" if label.domain == NONE else label.domain,
            "confidence": label.confidence,
            "teacher": found.teachers[prompt_id],
        }
        for prompt_id, label in found.values.items()
    ]
    return pl.DataFrame(rows, schema=LABELS)  # type: ignore[arg-type]


def quarantine_of(found: Read[str, TeacherLabel], model: str) -> pl.DataFrame:
    """The quarantine table: rows without a label, with the raw answers; `model`: the teacher's name as sent."""
    rows = [{"prompt_id": name, "teacher": model, **vars(failure)} for name, failure in found.failures.items()]
    return pl.DataFrame(rows, schema=QUARANTINE)  # type: ignore[arg-type]
