"""Renders the report page: one HTML file with style, script and figures inside, which asks for nothing from outside.

It holds nothing but its inputs: no clock, host, path or commit of this repository, so equal inputs give equal bytes.
"""

import base64
import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from ..evaluate import estimate
from . import charts, examples
from .claims import Verdict, claims, findings, verdict
from .groups import DECOUPLING, REAL, WITHOUT, Group, condition_of, difference, groups_of, held_against_chance, ordered
from .inputs import Inputs
from .prose import HERE, MEASURES, entries, environment, spaced
from .sweep import SWEPT_WORDS, Point

REFERENCES = (WITHOUT, "ceiling", "floor", "retrieval")
"""What writes no report and reads the same gradients; one level below, by group, those that are held out too."""
ELSEWHERE = ("held_out_", "teacher", "peers.", "subject.", *(f"{name}." for name in REFERENCES))
"""Beginnings of the keys of groups that the bars of conditions leave out."""


@dataclass(frozen=True)
class Row(Point):
    """A group as a row of bars and of the table of conditions."""

    verdict: Verdict


def render(inputs: Inputs) -> str:
    """The page's HTML."""
    groups = held_against_chance(ordered(groups_of(inputs.metrics)))
    pocket, lora = inputs.model["source"] == "pocket", inputs.card["lora_on_the_verbaliser"] is not None
    subject = "the pocket model" if pocket else str(inputs.model["id"])
    style, script = (HERE.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    projectors = list(inputs.metrics.get("seeds", {}))
    of_seeds = {name for seed in projectors for name in groups[f"seeds.{seed}"].estimates}
    here = [group for group in groups.values() if not group.key.startswith("subject.")]
    reports, template = examples.settled(inputs.reports), environment(html=True).get_template("page.html.j2")
    return template.render(
        inputs=inputs,
        charts=charts,
        SWEPT_WORDS=SWEPT_WORDS,
        condition_of=condition_of,
        difference=difference,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        pocket=pocket,
        lora=lora,
        figure=itertools.count(1).__next__,
        findings=findings(groups, subject, inputs.card),
        claims=claims(groups),
        groups=groups,
        numbers=[estimate.flat(group.estimates, group.key) for group in groups_of(inputs.metrics)],
        bars=bar_sections(groups),
        held_out=held_out_rows(groups),
        peers=parts(groups, "peers"),
        knowledge=parts(groups, "knowledge"),
        subject=at_both_places(groups),
        questions=parts(groups, "questions", title="{}"),
        grounding=dict(parts(groups, "grounding", title="{}")),
        rows=entries("asked.yaml"),
        answers=examples.answered(inputs.answers, inputs.reports),
        asked=examples.questions(inputs.answers, inputs.reports),
        paired=[group for group in here if any(difference(group, name) for name in MEASURES)],
        spoken=[group for group in here if "reports_spoken" in group],
        by_seed={label: row for label, row in entries("seeds.yaml").items() if row["seed"] in of_seeds},
        projectors=projectors,
        grid=charts.grid_of(inputs.grid),
        curves=curves(inputs),
        reports=examples.chosen(reports, inputs.settings.examples),
        counts=examples.counts(reports),
        outcomes=examples.OUTCOMES,
        sections=sections(inputs),
        versions=flat(inputs.model["versions"]),
        seeds=sorted(inputs.reports["seed"].unique()),
    )


def row_of(groups: dict[str, Group], key: str, label: str = "") -> Row:
    """A group with what its numbers say; a reference stands against the reports on its gradients."""
    real = groups.get(key.partition(".")[2], groups[DECOUPLING])
    return Row(label or condition_of(key).label, groups[key], verdict(groups[key], real))


def bar_sections(groups: dict[str, Group]) -> list[tuple[str, list[Row]]]:
    """Groups with an accuracy, but for held-out ones and the teacher: real gradients, controls, references, others."""
    found: dict[str, list[Row]] = {title: [] for title in ("Real gradients", "Controls", "References", "Others")}
    for key, group in groups.items():
        if key.startswith(ELSEWHERE) or not any(name in group for name in MEASURES):
            continue
        expected = condition_of(key).expected
        title = "Real gradients" if expected in REAL else "References" if expected else "Others"
        found["Controls" if key.startswith("controls.") else title].append(row_of(groups, key))
    return [(title, rows) for title, rows in found.items() if rows]


def held_out_rows(groups: dict[str, Group]) -> list[Row]:
    """The decoupling group and what is held out, each with what is left of it without the model."""
    found = []
    for key in (DECOUPLING, *(key for key in groups if key.startswith("held_out_"))):
        found.append(row_of(groups, key, "Nothing held out" if key == DECOUPLING else ""))
        without = WITHOUT if key == DECOUPLING else f"{WITHOUT}.{key}"
        if without in groups:
            found.append(row_of(groups, without, "\u2026 without the model"))
    return found


def parts(groups: dict[str, Group], section: str, title: str = "Another model: {}") -> list[tuple[str, list[Point]]]:
    """The groups <section>.<name>.<row> as rows of bars, each name a part; rows as asked.yaml has them."""
    rows = entries("asked.yaml")[section].items()
    found = []
    for name in dict.fromkeys(key.split(".")[1] for key in groups if key.startswith(f"{section}.")):
        points = points_of(groups, {f"{section}.{name}.{row}": words["label"] for row, words in rows})
        found.append(("The model under study" if name == "main" else title.format(spaced(name)), points))
    return found


def at_both_places(groups: dict[str, Group]) -> dict[str, list[tuple[str, list[Point]]]]:
    """Rows of bars at the last prompt token and at the subject's, by what is asked; empty without the subject's."""
    words, found = entries("asked.yaml")["places"], {}
    for what, starts in words["starts"].items() if "subject.decoupling" in groups else ():
        keys = [(title, {start + row: label for row, label in words[what].items()}) for title, start in starts.items()]
        found[what] = [(title, points_of(groups, labels)) for title, labels in keys]
    return found


def points_of(groups: dict[str, Group], labels: dict[str, str]) -> list[Point]:
    """Rows of bars of those groups that there are; `labels` by key."""
    return [Point(label, answers(groups, key)) for key, label in labels.items() if key in groups]


def answers(groups: dict[str, Group], key: str) -> Group:
    """A group with those of its numbers that stand elsewhere: chance, and answers where two facts differ."""
    group, differs = groups[key], groups.get(f"{key}.differs")
    shown = group.estimates | (differs.estimates if differs else {})
    if "chance" in group and "all" in group:
        shown["all"] = replace(group["all"], chance=group["chance"].value)
    return Group(key, shown)


def curves(inputs: Inputs) -> list[tuple[str, charts.Curve]]:
    """The training curves that there are."""
    found = []
    if inputs.projector_curve["step"].max():
        losses = {"train_loss": "training", "validation_loss": "validation"}
        found.append(("Projector", charts.curve(inputs.projector_curve, losses)))
    if inputs.model_curve is not None:
        losses = {"facts": "rows of facts", "slots": "rows with slots"}
        found.append(("Pocket model", charts.curve(inputs.model_curve, losses)))
    return found


def sections(inputs: Inputs) -> dict[str, list[tuple[str, str]]]:
    """Sections of settings by name: the model, the projector's card, and every section of params.yaml."""
    model = {key: value for key, value in inputs.model.items() if key != "versions"}
    params = {f"params.yaml: {name}": section for name, section in inputs.params.items()}
    files = {"data/model/model.json": model, "data/projector/projector.json": inputs.card}
    return {name: flat(content) for name, content in (files | params).items()}


def flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """A nested value as (dotted key, text), in its order; a list of plain values is one text."""
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        return [pair for name, inner in value.items() for pair in flat(inner, f"{key}.{name}".lstrip("."))]
    return [(key, (", ".join(map(plain, value)) or "(none)") if isinstance(value, list) else plain(value))]


def plain(value: Any) -> str:
    """A value as YAML would have it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
