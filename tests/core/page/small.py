"""Small made-up inputs: groups of metrics.json for sentences and verdicts, the model's and the projector's cards."""

import re
from typing import Any

from stages.core.page.conditions import held_against_chance
from stages.core.page.metrics import MEASURES, Group, groups_of
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


BESIDE: dict[str, Any] = {
    "detection": {
        "rate": one(0.982, 0.971, 0.992),
        "false_alarms": 1,
        "sham_reports": 3072,
        "shams": 1024,
        "shams_reported": 1,
        "false_alarms_high": 0.00462,
        "calibration_error": {"value": 0.034},
    },
    "strength": {
        "accuracy": one(0.98, 0.96, 0.99),
        "much_weaker": {"accuracy": one(0.99, 0.98, 1.0)},
        "much_stronger": {"accuracy": one(0.97, 0.95, 0.98)},
        "natural": {"accuracy": one(0.762, 0.723, 0.797), "share_further": 0.0, "median_apart": 0.131},
    },
    "options": {"accuracy": one(0.976, 0.957, 0.992) | {"chance": 0.2}, "margin": one(8.44, 8.12, 8.75)},
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
            "strength_accuracy": 0.99,
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
