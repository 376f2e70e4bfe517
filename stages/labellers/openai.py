"""The teacher behind a server that speaks the OpenAI API: OpenAI, vLLM, `transformers serve`, a gateway.

Requests, answers and their reading are three steps (stages/core/labels): the answers stand in .cache/labels, so that
another parser asks nothing, and another domain asks for its own rows only. The prompt is prompt.md.
"""

import polars as pl

from ..core.api.chat import Request
from ..core.api.converse import Read, converse
from ..core.api.paid import Origin
from ..core.api.spend import estimate as bill
from ..core.api.usage import Usage
from ..core.data.tables import LABELS
from ..core.labels.agreement import recurring
from ..core.labels.labeller import QUARANTINE, Job, Outcome
from ..core.labels.lexicon import Lexicon
from ..core.labels.parse import NONE, TeacherLabel, read_label
from ..core.labels.requests import label_requests
from ..core.run.seeds import keyed_fraction

BUILT_IN = ("stages/core/labels/requests.py", "stages/labellers/prompt.md")
MADE_OF = ("backend", "teacher_sees", "fields", "top_tokens", "teacher")
"""The keys of section labels that a request holds something of."""


def estimate(job: Job) -> str:
    """What labelling would cost, in words; asks nothing."""
    rows = job.shifts["prompt_id"].n_unique()
    requests = [*label_requests(job, job.params.teacher).values(), *second_requests(job).values()]
    return f"{rows} rows, {bill(requests, job.api, batch=job.params.way == 'batch')}"


def label(job: Job) -> Outcome:
    """Labels every prompt of the job, and a sample with the second teacher.

    Raises:
        InputError: too many answers are in quarantine, or asking had to stop: no key, no budget, no server.
    """
    usage = Usage()
    first = ask(job, label_requests(job, job.params.teacher), job.domain, usage, origin_of(job))
    second = ask(job, second_requests(job), f"{job.domain}, second teacher", usage, origin_of(job, "second"))
    labels = table_of(first, job)
    wordings = recurring(labels, job.params.recurring)
    metrics = first.metrics() | {"recurring": len(wordings), "recurring_wordings": wordings}
    if job.params.second:
        metrics["second_calls"] = second.metrics()
        metrics["cost_usd"] = round(metrics["cost_usd"] + metrics["second_calls"]["cost_usd"], 6)
    second_name = job.params.second.teacher.model if job.params.second else ""
    quarantine = pl.concat([quarantine_of(first, job.params.teacher.model), quarantine_of(second, second_name)])
    return Outcome(labels, quarantine, table_of(second, job), metrics, usage.as_dict())


def origin_of(job: Job, *more: str) -> Origin:
    """The files and params that requests are made from; `more`: keys of section labels beside MADE_OF."""
    files = [f"data/virtual_step/{job.domain}.parquet"]
    if job.prompts is not None:
        files.append(f"data/prompts/{job.domain}.parquet")
    params = job.params.model_dump(include={*MADE_OF, *more})
    return Origin(f"labels@{job.domain}", (*files, *BUILT_IN), {"labels": params})


def ask(job: Job, requests: dict[str, Request], what: str, usage: Usage, origin: Origin) -> Read[str, TeacherLabel]:
    """The labels in the answers to the requests; refuses when too many answers can't be used."""
    found = converse(
        requests, lambda _, answer: read_label(answer, job.params.fields), job.api,
        batch=job.params.way == "batch", what=what, usage=usage, origin=origin,
    )  # fmt: skip
    found.refuse_above(job.params.max_quarantined, "labels.max_quarantined", what)
    return found


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
    rows = [{"prompt_id": name, "teacher": model, **failure.row()} for name, failure in found.failures.items()]
    return pl.DataFrame(rows, schema=QUARANTINE)  # type: ignore[arg-type]
