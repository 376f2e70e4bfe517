"""Small made-up inputs: groups of metrics.json for sentences and verdicts, the model's and the projector's cards."""

import re
from typing import Any

from stages.core.page.groups import Group, groups_of, held_against_chance
from stages.core.page.prose import MEASURES
from stages.core.page.sweep import NUMBERS

BADLY_SET = re.compile(r"  | [.,;:)]|\( |[.,;:][A-Za-z]|\n")
"""What no text may have: doubled spaces, spaces before punctuation, none after it, line breaks."""


def numbers(
    value: float, chance: float | None = None, spread: float = 0.01, spoken: float | None = None, **others: Any
) -> dict[str, Any]:
    """A group whose three accuracies are `value`, and `spoken` among the reports that speak."""
    found: dict[str, Any] = {"host_intrusion": one(0.0, 0.0, 0.01)}
    for name in MEASURES[:3]:
        found[name] = one(value, max(0.0, value - spread), min(1.0, value + spread))
        if chance is not None:
            found[name]["chance"] = chance
        if spoken is not None:
            found["reports_spoken"] = 100
            found[name]["spoken"] = one(spoken, spoken - spread, spoken + spread)
    return {**found, **others}


def one(value: float, low: float, high: float) -> dict[str, Any]:
    """An estimate with its interval, as metrics.json has it."""
    return {"value": value, "low": low, "high": high}


def with_differences(group: dict[str, Any], **differences: tuple[float, float, float]) -> dict[str, Any]:
    """The group with the paired difference (value, low, high) of each accuracy that is named."""
    gaps = {f"{name}_accuracy": {"difference": one(*difference)} for name, difference in differences.items()}
    return group | {name: group[name] | gap for name, gap in gaps.items()}


def groups(**metrics: Any) -> dict[str, Group]:
    return held_against_chance({group.key: group for group in groups_of(metrics)})


def told(value: float, **others: float) -> dict[str, Any]:
    """Answers of all and of the groups of gradients, as a reading or a form has them."""
    names = ("all", "seen", "held_out_target", "held_out_kind")
    return {name: one(value, max(0.0, value - 0.02), min(1.0, value + 0.02)) for name in names} | others


def differing(own: float, world: float) -> dict[str, Any]:
    """Answers where the model's own fact is not the world's."""
    return {"differs": {"own": told(own)["all"], "world": told(world)["all"]}}


def explained(seen: float, held_out: float | None = None) -> dict[str, Any]:
    """Shares of the update direction that a text explains, with nothing held out and toward held-out names."""
    values = {"explained_seen": seen, "explained_held_out_target": seen if held_out is None else held_out}
    return {name: one(value, value - 0.015, value + 0.015) for name, value in values.items()}


def stepped(*values: float) -> dict[str, Any]:
    """Shares of virtual steps that do what the gradient's does, by size."""
    steps = zip((0.5, 1, 2), values, strict=True)
    return {f"step_{size}": one(value, max(0.0, value - 0.02), min(1.0, value + 0.02)) for size, value in steps}


GROUNDING: dict[str, Any] = {
    "layers": {"target_1": 3, "subject": 2},
    "grounding": {
        "target_1_words": {
            "report": explained(0.927, 0.89), "form_order": explained(0.92), "target": explained(0.47),
            "empty": explained(0.009), "prompt": explained(-0.41), "shuffled_across": explained(-0.89),
        },
        "target_1_reading": {"report": explained(0.905), "form_order": explained(0.9), "form_words": explained(0.46)},
        "subject_words": {"report": explained(0.45), "empty": explained(0.01)},
    },
    "acting": {
        way: {
            "gradient": stepped(0.9, 0.99, 1.0), "words": stepped(0.97, 0.98, 0.99),
            "words_shuffled": stepped(0.0, 0.0, 0.01),
        }
        for way in ("toward", "away")
    },
    "real": {
        "steps": 50,
        **{way: {"gradient": one(1.0, 0.92, 1.0), "reading": one(0.98, 0.9, 1.0)} for way in ("toward", "away")},
        **{
            part: {"gradient": one(0.92, 0.8, 0.97), "reading": one(0.96, 0.85, 1.0), "unchanged": one(0.0, 0.0, 0.08)}
            for part in ("corrected", "paraphrase", "neighbours", "changed")
        },
    },
    "heads": {"seed_1": explained(0.904), "seed_2": explained(0.902)},
    "swapped": {"target_1_words": one(0.99, 0.98, 1.0)},
    "negatives": {"activation": {"gate": one(0.99, 0.98, 1.0), "nearest": one(0.8, 0.78, 0.82)}},
}  # fmt: skip
"""The stage grounding's metrics.json."""


KNOWLEDGE: dict[str, Any] = {
    "main": {
        "raw": told(0.923, chance=0.04) | {"all_relations": one(0.883, 0.87, 0.9)} | differing(0.9, 0.01),
        "freed": told(0.991, chance=0.04) | differing(0.992, 0.005),
        "named": told(0.997, chance=0.04) | differing(0.99, 0.01),
        "shuffled": told(0.032, chance=0.041) | differing(0.03, 0.03),
        "nearest": told(0.9, chance=0.04) | differing(0.0, 0.99),
    },
    "permuted": {
        "raw": told(0.916, chance=0.05) | differing(0.931, 0.004),
        "nearest": told(0.356, chance=0.05) | differing(0.002, 0.98),
        "foreign": told(0.037, chance=0.05) | differing(0.03, 0.03),
    },
}
"""Answers from a model's own knowledge, by model and reading."""
SUBJECT: dict[str, Any] = {
    "decoupling": numbers(0.9),
    "held_out_target": numbers(0.88),
    "without_model": numbers(0.6) | {"held_out_target": numbers(0.5)},
    "floor": numbers(0.01),
    "ceiling": numbers(0.94),
    "words": {
        f"{group}_{length}": {"to": one(whole, whole - 0.01, whole + 0.01), "to_first": one(0.98, 0.97, 0.99)}
        | {"from": one(0.95, 0.94, 0.96), "from_first": one(0.96, 0.95, 0.97)}
        for group in ("decoupling", "held_out_target")
        for length, whole in (("one_word", 0.98), ("several_words", 0.28))
    },
    "knowledge": KNOWLEDGE["main"] | {"foreign": told(0.04)},
}
"""What is read at the subject's last token."""
BESIDE: dict[str, Any] = {
    "knowledge": KNOWLEDGE,
    "subject": SUBJECT,
    "edits": {"edits": 20, "flips": one(0.95, 0.8, 1.0), "others_change": one(0.004, 0.0, 0.01), "learnt": 1.0},
    "questions": {name: {"trained": told(0.99), "held_out": told(0.97)} for name in ("report", "toward", "kind")},
    "peers": {"permuted": {"seen": numbers(0.98), "held_out_target": numbers(0.96)}},
    "silence": {
        "already_said": {
            "no_pressure": one(0.97, 0.95, 0.99),
            "itself": one(0.02, 0.0, 0.04),
            "absent": one(0.01, 0.0, 0.02),
        },
        "any_word": {
            "no_pressure": one(0.01, 0.0, 0.02),
            "itself": one(0.9, 0.87, 0.93),
            "absent": one(0.07, 0.05, 0.1),
        },
    },
    "detection": {
        "rate": one(0.982, 0.971, 0.992),
        "false_alarms": 1,
        "sham_reports": 3072,
        "shams": 1024,
        "shams_reported": 1,
        "false_alarms_high": 0.00462,
        "calibration_error": {"value": 0.034},
    },
    "circularity": {
        "gradients": 17,
        "says_correction": one(0.848, 0.615, 0.955),
        "says_label": one(0.121, 0.024, 0.308),
    },
    "steering": {
        "rows": 205,
        "cosine": one(0.432, 0.421, 0.443),
        "update_direction_0.5": one(0.541, 0.48, 0.6),
        "steering_vector_0.5": one(0.049, 0.02, 0.08),
    },
    "seeds": {
        seed: {
            f"{group}_{name}": 0.9 + 0.01 * place + (group != "decoupling") / 1000 for group, name in NUMBERS.values()
        }
        | {
            "sign_flipped_target_accuracy": 0.97 + 0.01 * place,
            "sign_flipped_both_words": 0.96 + 0.01 * place,
            "detection_rate": 0.98,
            "false_alarms": int(place == 1),
            "sham_reports": 1024,
        }
        for place, seed in enumerate(("0", "1", "2"))
    },
}
MODEL: dict[str, Any] = {
    "source": "pocket",
    "id": "pocket",
    "commit": "3b1f0c9a7d52",
    "d_model": 128,
    "n_layers": 4,
    "vocabulary": 1663,
    "parameters": 1_070_000,
    "versions": {"torch": "2.9.1", "transformers": "5.1.0", "tokenizers": "0.22.1"},
}
CARD: dict[str, Any] = {
    "architecture": "mlp",
    "width": 512,
    "layers": [1],
    "d_model": 128,
    "reference": [0.0123],
    "slot_token": "<slot>",
    "lora_on_the_verbaliser": None,
    "norm": 1.37,
    "model": "pocket",
    "commit": "3b1f0c9a7d52",
    "held_out_domains": [],
    "seed": 0,
}
