"""The local teacher: labels a shift by rules and a lexicon of entities, without a model, a network or a price.

The shift is all it sees: tokens up and down and the greedy continuations before and after, for each step size. Rules:

- moved_to: the entity, other than before, that the continuation names after most step sizes; of several, the one that
  the up tokens match best, then that of the smallest step size. When no step made it name another, the entity that the
  up tokens match best.
- moved_from: the entity that the continuation names before the step, else the best match of the down tokens.
- domain: moved_to's; of several, those that moved_from shares, then the one whose entities the tokens match best.
- confidence: the share of step sizes that point to moved_to, by continuation or else by tokens, times (1 + m) / 2: m is
  moved_to's part of the up tokens' match with it and its nearest rival (0 when they match neither).
- A shift that leaves the continuation as it was and the distribution within READABLE of it, at every step size, is no
  correction: both entities are "", the confidence is 0.
"""

from collections.abc import Iterable
from typing import Any

import polars as pl

from ..core.data.summaries import form_of, summarise
from ..core.data.tables import LABELS
from ..core.labels.labeller import Job, Outcome, by_prompt
from ..core.labels.lexicon import Lexicon, best, words
from ..core.run.stage import progress

TEACHER = "local"
NO_SHIFT = "no shift seen: what the model says stays as it was"
READABLE = 1.0  # nats of KL; below this, and with the continuation unchanged, tokens up and down are noise


def estimate(job: Job) -> str:
    """The cost of labelling in words: none."""
    return f"{job.shifts['prompt_id'].n_unique()} rows, 0 calls, 0 tokens, 0 USD"


def label(job: Job) -> Outcome:
    """Labels every prompt of the job, in order of first occurrence."""
    lexicon = Lexicon(job.facts)
    labels = []
    prompts = by_prompt(job.shifts)
    with progress("local teacher", len(prompts)) as advance:
        for prompt_id, steps in prompts:
            labels.append({"prompt_id": prompt_id, **read_shift(steps, lexicon), "teacher": TEACHER})
            advance(1)
    table = pl.DataFrame(labels, schema=LABELS)  # type: ignore[arg-type]
    return Outcome(table, metrics={"rows": len(table), "unmoved": int((table["moved_to"] == "").sum())})


def read_shift(steps: list[dict[str, Any]], lexicon: Lexicon) -> dict[str, Any]:
    """The label of one prompt; `steps` are its virtual_step rows, smallest step size first."""
    if not any(step["continuation_after"] != step["continuation_before"] or step["kl"] >= READABLE for step in steps):
        return {"summary": NO_SHIFT, "moved_from": "", "moved_to": "", "domain": "", "confidence": 0.0}
    before = lexicon.named(steps[0]["continuation_before"])
    # Steps weigh the same, whatever their size: shifts grow with the step, their pattern is what tells.
    ups = [lexicon.match(step["up_tokens"], step["up_shifts"]) for step in steps]
    up, down = _sum(ups), _sum(lexicon.match(step["down_tokens"], step["down_shifts"]) for step in steps)

    after = [lexicon.named(step["continuation_after"]) for step in steps]
    said = [entity if entity != before else "" for entity in after]
    named = [entity for entity in said if entity]
    moved_to = max(named, key=lambda entity: (named.count(entity), up.get(entity, 0.0)), default="") or best(up)
    moved_from = before if before not in ("", moved_to) else best(down, without=moved_to)
    domain = _domain(moved_to or moved_from, moved_from, _sum([up, down]), lexicon)

    pointed = [entity or best(match) for entity, match in zip(said, ups, strict=True)]
    rival = up.get(best(up, without=moved_to), 0.0)
    match = up.get(moved_to, 0.0)
    margin = match / (match + rival) if match else 0.0
    agreement = pointed.count(moved_to) / len(pointed) if moved_to else 0.0
    return {
        "summary": summarise(domain, moved_from, moved_to, form_of(steps[0]["prompt_id"])),
        "moved_from": moved_from,
        "moved_to": moved_to,
        "domain": domain,
        "confidence": agreement * (1 + margin) / 2,
    }


def _sum(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    """Scores added up by entity."""
    total: dict[str, float] = {}
    for part in scores:
        for entity, score in part.items():
            total[entity] = total.get(entity, 0.0) + score
    return total


def _domain(entity: str, partner: str, matches: dict[str, float], lexicon: Lexicon) -> str:
    """The entity's domain; of several, those of its partner, then the best matched, then the first by name."""
    domains = lexicon.domains.get(entity, frozenset())
    domains = domains & lexicon.domains.get(partner, frozenset()) or domains
    if len(domains) < 2:
        return next(iter(domains), "")
    score = dict.fromkeys(domains, 0.0)
    for other, match in matches.items():
        if words(other) != words(entity):
            for domain in domains & lexicon.domains[other]:
                score[domain] += match
    return min(domains, key=lambda domain: (-score[domain], domain))
