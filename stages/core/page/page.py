"""Renders the report page: one HTML file with style, script and figures inside, which asks for nothing from outside.

It holds nothing but its inputs: no clock, host, path or commit of this repository, so equal inputs give equal bytes.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from ..evaluate import estimate
from . import charts, examples
from .claims import Verdict, claims, findings, verdict
from .conditions import DECOUPLING, REFERENCES, WITHOUT, Condition, condition_of, held_against_chance, ordered
from .inputs import Inputs
from .metrics import MEASURES, Group, difference, groups_of
from .prose import HERE, entries, environment, spaced
from .sweep import SWEPT_WORDS, Point

PLACES = {"decouples": "real", "right": "real", "alike": "real", "": "others"}
"""Part of the bars that a group stands in, by what is expected of it; references hold the rest."""
ELSEWHERE = ("held_out_", "teacher", "peers.", "subject.", *(f"{name}." for name in REFERENCES))
"""Beginnings of the keys of groups that those bars leave out."""


@dataclass(frozen=True)
class Row:
    """A group as a row of bars and of the table of conditions."""

    label: str
    group: Group
    condition: Condition
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
    reports, made = examples.settled(inputs.reports), environment(html=True)
    made.globals |= {"SWEPT_WORDS": SWEPT_WORDS, "condition_of": condition_of, "difference": difference}
    made.globals |= {"WIDTH": charts.WIDTH, "HEIGHT": charts.HEIGHT, "DEEP": charts.DEEP, "NO_HOST": charts.NO_HOST}
    return made.get_template("page.html.j2").render(
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        pocket=pocket,
        lora=lora,
        card=inputs.card,
        held=inputs.params.get("held_out"),
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
        grounding=parts(groups, "grounding", title="{}"),
        grounded=entries("asked.yaml")["grounded"],
        updates=entries("asked.yaml")["updates"],
        columns=entries("asked.yaml")["columns"],
        readings=entries("asked.yaml")["knowledge"],
        answers=examples.answered(inputs.answers, inputs.reports),
        asked=examples.questions(inputs.answers, inputs.reports),
        paired=[group for group in here if any(difference(group, name) for name in MEASURES)],
        spoken=[group for group in here if "reports_spoken" in group],
        by_seed={label: row for label, row in entries("seeds.yaml").items() if row["seed"] in of_seeds},
        projectors=projectors,
        heatmaps=charts.heatmaps(inputs.grid),
        curves=curves(inputs),
        curve_seed=int(inputs.projector_curve["seed"][0]),
        reports={
            "rows": examples.chosen(reports, inputs.settings.examples),
            "counts": examples.counts(reports),
            "total": len(reports),
            "outcomes": examples.OUTCOMES,
            "examples": inputs.settings.examples,
        },
        sections=list(sections(inputs)),
        sweeps=inputs.sweeps,
        versions=flat(inputs.model["versions"]),
        seeds=sorted(inputs.reports["seed"].unique()),
    )


def row_of(group: Group, groups: dict[str, Group]) -> Row:
    """The group with its words and what its numbers say; a reference stands against the reports on its gradients."""
    real = groups.get(group.key.partition(".")[2], groups[DECOUPLING])
    condition = condition_of(group.key)
    return Row(condition.label, group, condition, verdict(group, real))


def bar_sections(groups: dict[str, Group]) -> list[tuple[str, list[Row]]]:
    """Groups with an accuracy, but for held-out ones and the teacher: real gradients, controls, references, others."""
    titles = {"real": "Real gradients", "controls": "Controls", "reference": "References", "others": "Others"}
    found: dict[str, list[Row]] = {title: [] for title in titles}
    for group in groups.values():
        if group.key.startswith(ELSEWHERE) or not any(name in group for name in MEASURES):
            continue
        control = group.key.startswith("controls.")
        found["controls" if control else PLACES.get(condition_of(group.key).expected, "reference")].append(
            row_of(group, groups)
        )
    return [(titles[place], rows) for place, rows in found.items() if rows]


def held_out_rows(groups: dict[str, Group]) -> list[Row]:
    """The decoupling group and what is held out, each with what is left of it without the model."""
    keys = [(key, f"{WITHOUT}.{key}") for key in groups if key.startswith("held_out_")]
    found = []
    for key, without in [(DECOUPLING, WITHOUT), *keys]:
        own = row_of(groups[key], groups)
        found.append(replace(own, label="Nothing held out") if key == DECOUPLING else own)
        if without in groups:
            found.append(replace(row_of(groups[without], groups), label="\u2026 without the model"))
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
    losses = {"train_loss": "training", "validation_loss": "validation"}
    found = []
    if inputs.projector_curve["step"].max():
        found.append(("Projector", charts.curve(inputs.projector_curve, losses)))
    if inputs.model_curve is not None:
        found.append(
            ("Pocket model", charts.curve(inputs.model_curve, {"facts": "rows of facts", "slots": "rows with slots"}))
        )
    return found


def sections(inputs: Inputs) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Sections of settings: the model, the projector's card, and every section of params.yaml; (key, value) pairs."""
    model = {key: value for key, value in inputs.model.items() if key != "versions"}
    yield "data/model/model.json", flat(model)
    yield "data/projector/projector.json", flat(inputs.card)
    for name, section in inputs.params.items():
        yield f"params.yaml: {name}", flat(section)


def flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """A nested value as (dotted key, text), in its order."""
    if isinstance(value, dict) and value:
        return [pair for name, inner in value.items() for pair in flat(inner, f"{key}.{name}".lstrip("."))]
    if isinstance(value, list):
        if any(isinstance(inner, dict | list) for inner in value):
            return flat(dict(enumerate(value)), key)
        return [(key, ", ".join(map(plain, value)) or "(none)")]
    return [(key, plain(value))]


def plain(value: Any) -> str:
    """A value as YAML would have it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
