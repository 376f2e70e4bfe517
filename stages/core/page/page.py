"""Renders the report page: one HTML file with style, script and figures inside, which asks for nothing from outside.

It holds nothing but its inputs: no clock, host, path or commit of this repository, so equal inputs give equal bytes.
"""

import base64
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ..evaluate import estimate
from ..evaluate.estimate import Estimate
from . import charts, examples
from .claims import claims
from .conditions import DECOUPLING, REFERENCES, Condition, condition_of, ordered
from .found import SHUFFLED, sentences
from .gaps import difference
from .inputs import Inputs
from .metrics import (
    MEASURES,
    WORDS,
    Group,
    bare,
    groups_of,
    listed,
    percent,
    points,
    signed,
    span,
    thousands,
    whole,
)
from .seeded import by_seed
from .sweep import SWEPT_WORDS, Sweep
from .verdicts import Verdict, verdict

HERE = Path(__file__).parent
POCKET = "pocket"
PLACES = {"right": "real", "alike": "real", "": "others"}
"""Part of the bars that a group stands in, by what is expected of it; references hold the rest."""
ELSEWHERE = ("held_out_", "teacher", *(f"{name}." for name in REFERENCES))
"""Beginnings of the keys of groups that those bars leave out."""


@dataclass(frozen=True)
class Row:
    """A group as a row of bars and of the table of conditions."""

    group: Group
    condition: Condition
    verdict: Verdict


def render(inputs: Inputs) -> str:
    """The page's HTML."""
    groups = held_against_chance(ordered(groups_of(inputs.metrics)))
    lora = inputs.card["lora_on_the_verbaliser"]
    table = examples.settled(inputs.reports)
    pocket = inputs.model["source"] == POCKET
    subject = "the pocket model" if pocket else str(inputs.model["id"])
    style, script = (HERE.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            style=Markup(style),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            pocket=pocket,
            subject=subject,
            lora=lora is not None,
            verbaliser=verbaliser(lora),
            figure=itertools.count(1).__next__,
            sentences=sentences(groups, subject, lora is not None),
            claims=claims(groups),
            decoupling=groups[DECOUPLING],
            groups=groups,
            numbers=[estimate.flat(group.estimates, group.key) for group in groups_of(inputs.metrics)],
            bars=bar_sections(groups),
            held_out=held_out_rows(groups),
            paired=paired(groups),
            spoken=spoken(groups),
            by_seed=by_seed(inputs.metrics.get("seeds", {}), groups),
            projectors=list(inputs.metrics.get("seeds", {})),
            heatmaps=charts.heatmaps(inputs.grid),
            curves=curves(inputs),
            curve_seed=int(inputs.projector_curve["seed"][0]),
            reports=reports(inputs, table),
            sections=list(sections(inputs)),
            sweeps=[(one, swept(one)) for one in inputs.sweeps],
            versions=flat(inputs.model["versions"]),
            seeds=sorted(inputs.reports["seed"].unique()),
        )
    )


def environment() -> jinja2.Environment:
    """Templates of this folder: everything is escaped, an undefined name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "percent": percent,
        "bare": bare,
        "whole": whole,
        "thousands": thousands,
        "listed": listed,
    }
    made.filters |= {"unbroken": unbroken, "spaced": spaced, "signed": signed}
    made.globals |= {"SWEPT_WORDS": SWEPT_WORDS}
    made.globals |= {"MEASURES": MEASURES, "WORDS": WORDS, "span": span, "points": points, "condition_of": condition_of}
    made.globals |= {"WIDTH": charts.WIDTH, "HEIGHT": charts.HEIGHT, "NO_HOST": charts.NO_HOST}
    return made


def unbroken(text: str) -> Markup:
    """The text, escaped, with intervals kept on one line."""
    return Markup(re.sub(r"[\d.]+\u2013[\d.]+", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def spaced(name: str) -> str:
    """A domain's name as words."""
    return name.replace("_", " ")


def held_against_chance(groups: dict[str, Group]) -> dict[str, Group]:
    """Gives accuracies of real gradients that come without a chance that of gradients shuffled across domains."""
    shuffled = groups.get(SHUFFLED)

    def against(group: Group) -> Group:
        if shuffled is None or condition_of(group.key).expected not in ("right", "alike"):
            return group
        estimates = {
            name: replace(one, chance=shuffled[name].chance) if one.chance is None and name in shuffled else one
            for name, one in group.estimates.items()
        }
        return replace(group, estimates=estimates)

    return {key: against(group) for key, group in groups.items()}


def row_of(group: Group, groups: dict[str, Group]) -> Row:
    """The group with its words and what its numbers say; a reference stands against the reports on its gradients."""
    real = groups.get(group.key.partition(".")[2], groups[DECOUPLING])
    return Row(group, condition_of(group.key), verdict(group, real))


def bar_sections(groups: dict[str, Group]) -> list[tuple[str, list[Row]]]:
    """Groups with an accuracy, but for held-out ones and the teacher: real gradients, controls, references, others."""
    titles = {"real": "Real gradients", "controls": "Controls", "reference": "References", "others": "Others"}
    found: dict[str, list[Row]] = {title: [] for title in titles}
    for group in groups.values():
        known = condition_of(group.key).expected
        if group.key.startswith(ELSEWHERE) or not any(name in group for name in MEASURES):
            continue
        controls = group.key.startswith("controls.")
        place = "controls" if controls else PLACES.get(known, "reference")
        found[place].append(row_of(group, groups))
    return [(titles[place], rows) for place, rows in found.items() if rows]


def held_out_rows(groups: dict[str, Group]) -> list[Row]:
    """The decoupling group and what is held out, each with what the references read of it, to stand side by side."""
    first = row_of(groups[DECOUPLING], groups)
    seen = replace(first, condition=replace(first.condition, label="All seen in training"))
    held = [key for key in groups if key.startswith("held_out_")]
    keys = [key for name in held for key in (name, *(f"{reference}.{name}" for reference in REFERENCES))]
    return [seen, *(row_of(groups[key], groups) for key in keys if key in groups)]


def paired(groups: dict[str, Group]) -> list[tuple[str, list[Estimate | None]]]:
    """Each control's paired difference of every measure, real gradient minus control; None: not measured."""
    controls = [group for group in groups.values() if any(difference(group, name) for name in MEASURES)]
    return [(condition_of(one.key).label, [difference(one, name) for name in MEASURES]) for one in controls]


def spoken(groups: dict[str, Group]) -> list[tuple[str, list[Estimate | None]]]:
    """Of each group of reports: share silent, target accuracy of all and of those that speak, calibration error."""
    rows = []
    for group in groups.values():
        if "reports_spoken" in group:
            silent, target, error = map(group.estimates.get, ("no_pressure", "target_accuracy", "calibration_error"))
            rows.append((condition_of(group.key).label, [silent, target, target and target.spoken, error]))
    return rows


def verbaliser(lora: dict[str, Any] | None) -> str:
    """What wrote the reports. `lora`: as the projector's card has it."""
    return "the model itself" if lora is None else "the model with LoRA on the verbaliser"


def swept(sweep: Sweep) -> list[tuple[str, list[Row]]]:
    """The experiments of a sweep as rows of bars, by group; that of the settings shown says so."""
    parts = []
    for group, experiments in sweep.groups.items():
        labels = [spaced(point.name) + ", as on this page" * point.current for point in experiments]
        conditions = [Condition(label, "", "", "", "") for label in labels]
        rows = [Row(point.numbers, one, Verdict(None, "")) for point, one in zip(experiments, conditions, strict=True)]
        parts.append((group, rows))
    return parts


def curves(inputs: Inputs) -> list[tuple[str, charts.Curve]]:
    """The training curves that there are."""
    losses = {"train_loss": "training", "validation_loss": "validation"}
    found = [("Projector", charts.curve(inputs.projector_curve, losses))]
    if inputs.model_curve is not None:
        found.append(("Pocket model", charts.curve(inputs.model_curve, {"loss": "training"})))
    return found


def reports(inputs: Inputs, table: Any) -> dict[str, Any]:
    """What the template needs to show reports: rows, counts, what can be filtered by, and the one in the headline."""
    rows = examples.chosen(table, inputs.settings.examples)
    counts = examples.counts(table)
    first = [row for row in rows if row["setting"] == DECOUPLING]
    return {
        "rows": rows,
        "counts": counts,
        "total": len(table),
        "outcomes": examples.OUTCOMES,
        "about": examples.ABOUT,
        "rule": examples.RULE.format(examples=inputs.settings.examples),
        "gradient_domains": sorted({row["gradient_domain"] for row in rows}),
        "host_domains": sorted({row["host_domain"] for row in rows}),
        "first": first[0] if first else None,
        "right_share": counts[DECOUPLING]["right"] / sum(counts[DECOUPLING].values()) if first else None,
    }


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
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)
