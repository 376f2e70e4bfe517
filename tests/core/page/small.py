"""Small made-up inputs: groups of metrics.json for sentences and verdicts, the model's and the projector's cards."""

from typing import Any

from stages.core.page.metrics import MEASURES, Group, groups_of
from stages.core.page.page import held_against_chance
from stages.core.page.sweep import NUMBERS


def numbers(
    value: float, chance: float | None = None, spread: float = 0.01, spoken: float | None = None, **others: float
) -> dict[str, Any]:
    """A group whose three accuracies are `value`, and `spoken` among the reports that speak."""
    found: dict[str, Any] = {"host_intrusion": 0.0, "host_intrusion_low": 0.0, "host_intrusion_high": 0.01}
    for name in MEASURES[:3]:
        found |= {name: value, f"{name}_low": max(0.0, value - spread), f"{name}_high": min(1.0, value + spread)}
        if chance is not None:
            found[f"{name}_chance"] = chance
        if spoken is not None:
            found |= {"reports_spoken": 100, f"{name}_spoken": spoken}
            found |= {f"{name}_spoken_low": spoken - spread, f"{name}_spoken_high": spoken + spread}
    return {**found, **others}


def groups(**metrics: Any) -> dict[str, Group]:
    return held_against_chance({group.key: group for group in groups_of(metrics)})


BESIDE: dict[str, Any] = {
    "detection": {
        "rate": 0.982,
        "rate_low": 0.971,
        "rate_high": 0.992,
        "false_alarms": 1,
        "sham_reports": 3072,
        "shams": 1024,
        "shams_reported": 1,
        "false_alarms_high": 0.00462,
        "calibration_error": 0.034,
    },
    "strength": {
        "accuracy": 0.98,
        "accuracy_low": 0.96,
        "accuracy_high": 0.99,
        "much_weaker": {"accuracy": 0.99, "accuracy_low": 0.98, "accuracy_high": 1.0},
        "much_stronger": {"accuracy": 0.97, "accuracy_low": 0.95, "accuracy_high": 0.98},
        "natural": {
            "accuracy": 0.762,
            "accuracy_low": 0.723,
            "accuracy_high": 0.797,
            "share_further": 0.0,
            "median_apart": 0.131,
        },
    },
    "options": {
        "accuracy": 0.976,
        "accuracy_low": 0.957,
        "accuracy_high": 0.992,
        "accuracy_chance": 0.2,
        "margin": 8.44,
        "margin_low": 8.12,
        "margin_high": 8.75,
    },
    "circularity": {
        "gradients": 17,
        "says_correction": 0.848,
        "says_correction_low": 0.615,
        "says_correction_high": 0.955,
        "says_label": 0.121,
        "says_label_low": 0.024,
        "says_label_high": 0.308,
    },
    "steering": {
        "rows": 205,
        "cosine": 0.432,
        "cosine_low": 0.421,
        "cosine_high": 0.443,
        "update_direction_0.5": 0.541,
        "update_direction_0.5_low": 0.48,
        "update_direction_0.5_high": 0.6,
        "steering_vector_0.5": 0.049,
        "steering_vector_0.5_low": 0.02,
        "steering_vector_0.5_high": 0.08,
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
