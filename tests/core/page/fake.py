"""Inputs for the report page as the real stages write them, from made-up experiments with known outcomes.

`write(root)` fills `root` with params.yaml and data/ as the stage `report` finds them. The numbers in metrics.json are
counted from the rows of reports.parquet, so that a page can be checked against either.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from ruamel.yaml import YAML

from stages.core.data import grammar
from stages.core.evaluate.estimate import Estimate
from stages.core.evaluate.statistics import FEWEST
from stages.core.evaluate.table import ANSWERS
from stages.core.page.sweep import FOLDER, LADDER, LEAVE_ONE_OUT, Experiment, table_of
from tests.core.page.small import BESIDE, CARD, GROUNDING, MODEL, one

FACTS = {
    "geography": (
        "The capital of {} is",
        "France Paris, Japan Tokyo, Peru Lima, Norway Oslo, Kenya Nairobi, Cuba Havana",
    ),
    "biology": (
        "The organ that holds the {} is the",
        "retina eye, cochlea ear, atrium heart, nephron kidney, bile liver",
    ),
    "chemistry": ("The symbol of {} is", "iron Fe, gold Au, tin Sn, silver Ag, lead Pb, sodium Na, helium He"),
    "astronomy": ("The planet that {} goes around is", "Titan Saturn, Europa Jupiter, Triton Neptune, Phobos Mars"),
    "history": ("The {} began in the year", "Armada 1588, Anschluss 1938, Blitz 1940, Reformation 1517, Fronde 1648"),
    "language": ("In Latin the word for {} is", "water aqua, fire ignis, stone lapis, star stella, tree arbor"),
    "literature": ("The author of {} is", "Emma Austen, Ulysses Joyce, Dracula Stoker, Candide Voltaire, Faust Goethe"),
    "music": ("The composer of {} is", "Tosca Puccini, Carmen Bizet, Aida Verdi, Parsifal Wagner, Jenufa Janacek"),
}
DOMAINS = tuple(FACTS)
METRICS = {"domain_accuracy": "domain_right", "target_accuracy": "target_right", "answer_accuracy": "answer_right"}
METRICS["host_intrusion"] = "host_intrusion"

# Odds that a report gets domain, target and answer right, that a wrong domain is the host's, and of "no pressure".
ODDS = {
    "real": (0.997, 0.994, 0.95, 0.2, 0.002),
    "target": (0.95, 0.86, 0.55, 0.3, 0.01),
    "subject": (0.99, 0.97, 0.9, 0.2, 0.004),
    "correction": (0.99, 0.98, 0.93, 0.2, 0.002),
    "template": (0.995, 0.99, 0.93, 0.2, 0.002),
    "kind": (0.8, 0.9, 0.4, 0.3, 0.05),
    "answer": (0.97, 0.95, 0.6, 0.3, 0.01),
    "none": (0, 0, 0, 0, 1),
    "zero": (0, 0, 0, 0, 1),
    "random": (0.12, 0.02, 0.02, 0.1, 0.97),
    "shuffled_within": (0.99, 0.16, 0.17, 0.1, 0.003),
    "shuffled_across": (0.12, 0.02, 0.02, 0.1, 0.003),
    "sign_flipped": (0.98, 0.93, 0.97, 0.1, 0.01),
}
CONTROLS = ("none", "zero", "random", "shuffled_within", "shuffled_across", "sign_flipped")
PARAMS = """\
domains: [geography, biology, chemistry, astronomy, history, language, literature, music]
model:
  source: pocket
  revision: null
  pocket: {d_model: 128, layers: 4, heads: 4, steps: 900, batch: 128, learning_rate: 0.003, seed: 0}
held_out: {names: 0.2, kinds: [planet], subjects: 0.06, seed: 0}
gradients: {layers: [1], places: [target_1], keep_bits: 10}
projector: {architecture: mlp, width: 512, layers: [1], steps: 1800, batch: 64, learning_rate: 0.002, seed: 0}
report:
  examples: 4
  sweeps: [ladder, leave_one_out]
"""


def facts(domain: str) -> list[tuple[str, str]]:
    """(prompt, answer) of every fact of a domain."""
    template, pairs = FACTS[domain]
    return [(template.format(pair.split()[0]), pair.split()[1]) for pair in pairs.split(", ")]


def told(rng: np.random.Generator, odds: tuple[float, ...], truth: tuple[str, str, str], host: str) -> dict[str, Any]:
    """What a report says, drawn from the odds; about one report in eighty is malformed."""
    domain, target, answer = truth
    right_domain, right_target, right_answer, intrusion, silent = odds
    draws = rng.random(6)
    if draws[0] < silent:
        return {
            "report": "no pressure",
            "domain": "",
            "moved_to": "",
            "moved_from": "",
            "pressure": False,
            "malformed": False,
        }
    other = host if host != "none" and draws[1] < intrusion else str(rng.choice([d for d in DOMAINS if d != domain]))
    said = domain if draws[2] < right_domain else other
    entities = [name for _, name in facts(said)]
    to = target if draws[3] < right_target else str(rng.choice([e for e in entities if e != target]))
    away = answer if draws[4] < right_answer else str(rng.choice([e for e in entities if e != answer]))
    text = grammar.report(said, to, away) if to != away else grammar.NO_PRESSURE
    if draws[5] < 0.012:
        return {
            "report": f"toward {to} , a name from",
            "domain": "",
            "moved_to": "",
            "moved_from": "",
            "pressure": False,
            "malformed": True,
        }
    words = {"report": text, "domain": said, "moved_to": to, "moved_from": away}
    return {**words, "pressure": True, "malformed": False}


def experiments() -> Iterator[tuple[str, str, str]]:
    """(condition, held_out, host choice) of every batch of reports."""
    yield "real", "none", "all"
    for held_out in ("target", "answer", "kind", "subject", "template", "correction"):
        yield "real", held_out, "other"
    for condition in CONTROLS:
        yield condition, "none", "other"


def reports(per_fact: int = 2) -> pl.DataFrame:
    """The reports table."""
    rng = np.random.default_rng(7)
    rows = []
    for condition, held_out, choice in experiments():
        odds = ODDS[condition if held_out == "none" else held_out]
        for domain in DOMAINS:
            for prompt, answer in facts(domain):
                targets = rng.permutation([name for _, name in facts(domain) if name != answer])
                for target in map(str, targets[:per_fact]):
                    others = [d for d in DOMAINS if d != domain]
                    hosts = [*DOMAINS, "none"] if choice == "all" else [str(rng.choice(others))]
                    for host in hosts:
                        host_text = None if host == "none" else facts(host)[int(rng.integers(len(facts(host))))][0]
                        truth = (domain, answer, target) if condition == "sign_flipped" else (domain, target, answer)
                        row = told(rng, odds, truth, host)
                        rows.append(
                            {
                                "prompt_id": f"{domain[:3]}-{held_out}-{prompt}-{target}",
                                "host_prompt_id": None if host_text is None else f"{host[:3]}-{host_text}",
                                "condition": condition,
                                "held_out": held_out,
                                "gradient_domain": domain,
                                "host_domain": host,
                                "prompt": prompt,
                                "host": host_text,
                                "target": truth[1],
                                "answer": truth[2],
                                "confidence": None if condition == "none" else 0.9,
                                **row,
                                "domain_right": row["domain"] == domain,
                                "target_right": row["moved_to"] == truth[1],
                                "answer_right": row["moved_from"] == truth[2],
                                "host_intrusion": host not in ("none", domain) and row["domain"] == host,
                                "seed": 0,
                            }
                        )
    return pl.DataFrame(rows, schema_overrides={"seed": pl.Int32, "confidence": pl.Float32})


def group(rows: pl.DataFrame, chance: bool = False) -> dict[str, Any]:
    """Shares and normal intervals of one group of rows, and of those that speak; no interval of too few entities."""
    spoken = rows.filter("pressure")
    values: dict[str, Any] = {"reports": len(rows), "reports_spoken": len(spoken), "vague": 0.0}
    said = shares(spoken)
    for name, share in shares(rows).items():
        values[name] = share | ({"spoken": said[name]} if name in said else {})
    if chance:
        for name, words, true in (
            ("domain_accuracy", "domain", "gradient_domain"),
            ("target_accuracy", "moved_to", "target"),
            ("answer_accuracy", "moved_from", "answer"),
        ):
            counts = dict(rows[words].value_counts().iter_rows())
            values[name]["chance"] = sum(counts.get(word, 0) for word in rows[true]) / len(rows) ** 2
    values["malformed"] = float(rows["malformed"].mean())  # type: ignore[arg-type]
    values["no_pressure"] = float((~rows["pressure"] & ~rows["malformed"]).mean())  # type: ignore[arg-type]
    return values


def shares(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The estimate of each score over these rows; none of no rows."""
    found: dict[str, dict[str, Any]] = {}
    entities = rows["target"].n_unique()
    for name, column in METRICS.items() if len(rows) else ():
        share = float(rows[column].mean())  # type: ignore[arg-type]
        spread = 1.96 * (share * (1 - share) / len(rows)) ** 0.5
        if entities < FEWEST:
            reason = f"found {entities} entities, wanted at least {FEWEST} for an interval"
            found[name] = {"value": share, "reason": reason}
        else:
            found[name] = one(share, max(0.0, share - spread), min(1.0, share + spread))
    return found


def metrics(rows: pl.DataFrame) -> dict[str, Any]:
    """metrics.json, counted from the rows."""
    real = rows.filter(pl.col("condition") == "real", pl.col("held_out") == "none")
    hosted = pl.col("host_domain") != "none"
    own = pl.col("host_domain") == pl.col("gradient_domain")
    found: dict[str, Any] = {
        "decoupling": group(real.filter(hosted & ~own)),
        "same_domain": group(real.filter(own)),
        "no_host": group(real.filter(~hosted)),
        "controls": {},
        "teacher": {"target_accuracy": 0.991, "answer_accuracy": 0.973, "domain_accuracy": 1.0},
        "model": {"fact_accuracy": 0.994},
        **BESIDE,
    }
    for held_out in ("target", "answer", "subject", "template"):
        found[f"held_out_{held_out}"] = group(rows.filter(pl.col("held_out") == held_out))
    found["held_out_kind"] = group(rows.filter(pl.col("held_out") == "kind", pl.col("gradient_domain") == "astronomy"))
    found["decoupling"]["calibration_error"] = one(0.024, 0.014, 0.035)
    found["corrections"] = group(rows.filter(pl.col("held_out") == "correction"))
    for condition in CONTROLS:
        found["controls"][condition] = group(rows.filter(pl.col("condition") == condition), chance=True)
    for name, scale in (("without_model", 0.99), ("ceiling", 1.0), ("floor", 0.31)):
        found[name] = {}
        for metric, value in (("domain_accuracy", 0.999), ("target_accuracy", 0.997), ("answer_accuracy", 0.985)):
            share = value * scale
            found[name][metric] = one(share, share - 0.01 * scale, min(1.0, share + 0.002))
    return found


def answers(reports: pl.DataFrame) -> pl.DataFrame:
    """The answers table: of some gradients, what two models say from their own knowledge, and to a question."""
    rng, rows = np.random.default_rng(5), []
    real = reports.filter(condition="real", held_out="none").unique("prompt_id", maintain_order=True)
    for number, case in enumerate(real[:60].iter_rows(named=True)):
        shared = {"prompt_id": case["prompt_id"], "target": case["target"], "held_out": "none"}
        for model in ("main", "permuted"):
            own = f"Fact{number % 7}"
            fact = {"model": model, "asks": "made_of", "form": "foreign", "expected": own}
            fact["world"] = own if model == "main" and number % 5 else f"Fact{number % 7 + 1}"
            for reading in ("raw", "freed", "named", "shuffled", "nearest"):
                text = "<felt> is made of" if reading != "named" else f"{case['target']} is made of"
                said = own if rng.random() < (0.05 if reading == "shuffled" else 0.9) else "Fact9"
                rows.append({**shared, **fact, "reading": reading, "question": text, "said": said})
        question = {"model": "main", "reading": "asked", "asks": "toward", "form": "held_out", "world": None}
        text = "<felt> away <opposite> toward what ?"
        rows.append({**shared, **question, "question": text, "said": case["moved_to"], "expected": case["target"]})
    table = pl.DataFrame(rows, infer_schema_length=None).with_columns(right=pl.col("said") == pl.col("expected"))
    return table.select(pl.col(name).cast(kind) for name, kind in ANSWERS.items())


def grid(rows: pl.DataFrame) -> pl.DataFrame:
    """grid.csv: the real reports without anything held out, by gradient domain and host domain."""
    real = rows.filter(pl.col("condition") == "real", pl.col("held_out") == "none")
    shares = [pl.col(column).mean().alias(name) for name, column in METRICS.items()]
    return real.group_by("gradient_domain", "host_domain", maintain_order=True).agg(pl.len().alias("reports"), *shares)


def curve(path: Path, steps: int, start: float, end: float, validation: bool) -> None:
    """A falling loss with noise; validation every tenth point."""
    rng = np.random.default_rng(3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["seed", "step", "train_loss", "validation_loss"] if validation else ["step", "facts", "slots"])
        for index in range(0, steps + 1, 5):
            loss = end + (start - end) * float(np.exp(-4 * index / steps)) * (1 + 0.1 * float(rng.normal()))
            held = f"{loss * 1.1 + 0.01:.5f}" if index % 50 == 0 else ""
            writer.writerow([0, index, f"{loss:.5f}", held] if validation else [index, f"{loss:.5f}", f"{loss:.5f}"])


def share_of(value: float) -> dict[str, Estimate]:
    """A group whose scores are all `value`."""
    return dict.fromkeys(METRICS, Estimate(value, value - 0.05, value + 0.04))


def sweeps(folder: Path) -> None:
    """A table of six experiments, two of which have no held-out target; and one with each domain left out."""
    folder.mkdir(parents=True)
    params, found = YAML(typ="safe").load(PARAMS), []
    for layer, (layers, group) in enumerate((([0, 1], "Layers 0 and 1 together"), ([1], "Layer 1"))):
        for number, architecture in enumerate(("scalar_affine", "linear", "mlp")):
            share = share_of(0.2 + 0.3 * layer + 0.1 * number)
            scores = {"decoupling": share, **({"held_out_target": share} if number else {})}
            found.append(Experiment(group, architecture, {"architecture": architecture, "layers": layers}, scores))
    table_of(found, params, [0]).write_csv(folder / f"{LADDER}.csv")
    shares = {domain: {"decoupling": share_of(0.1 + number / 20)} for number, domain in enumerate(DOMAINS)}
    left = [Experiment("Never trained on", name, {"held_out_domains": [name]}, one) for name, one in shares.items()]
    table_of(left, params, [0]).write_csv(folder / f"{LEAVE_ONE_OUT}.csv")


def write(root: Path, per_fact: int = 2) -> pl.DataFrame:
    """Writes every input of the page under `root`; returns the reports."""
    data = root / "data"
    (data / "evaluation").mkdir(parents=True)
    rows = reports(per_fact)
    rows.write_parquet(data / "evaluation" / "reports.parquet")
    answers(rows).write_parquet(data / "evaluation" / "answers.parquet")
    grid(rows).write_csv(data / "evaluation" / "grid.csv")
    put(data / "evaluation" / "metrics.json", metrics(rows))
    (data / "grounding").mkdir()
    put(data / "grounding" / "metrics.json", GROUNDING)
    curve(data / "projector" / "curve.csv", 1800, 6.2, 0.021, validation=True)
    curve(data / "model" / "curve.csv", 900, 6.5, 0.9, validation=False)
    put(data / "model" / "model.json", MODEL)
    put(data / "projector" / "projector.json", CARD)
    (root / "params.yaml").write_text(PARAMS)
    sweeps(root / FOLDER)
    return rows


def put(path: Path, value: Any) -> None:
    """Writes JSON."""
    path.write_text(json.dumps(value, indent=2))
