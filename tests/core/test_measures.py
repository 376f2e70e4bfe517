"""The numbers of metrics.json say what they claim, on reports made up so that the numbers are known."""

import numpy as np
import polars as pl
import pytest

from stages.core import measures
from stages.core.scoring import scored
from stages.core.wording import NO_PRESSURE, report

HOW = 200, 0
ENTITIES = ["Oslo", "Lima", "Accra", "Quito"]


def case(number: int, condition: str = "real", **columns: object) -> dict[str, object]:
    """A case in front of a foreign host: toward one of ENTITIES and away from the next."""
    target, answer = ENTITIES[number % 4], ENTITIES[(number + 1) % 4]
    identity = {"prompt_id": f"p{number}", "host_prompt_id": f"h{number}", "condition": condition, "held_out": "none"}
    texts = {"gradient_domain": "geography", "host_domain": "music", "prompt": "x", "host": "y"}
    return identity | texts | {"target": target, "answer": answer, "seed": 0, "confidence": 0.9} | columns


def asked(cases: list[dict[str, object]], said: list[str]) -> pl.DataFrame:
    return scored(pl.DataFrame(cases), said)


def right(number: int) -> str:
    return report("geography", ENTITIES[number % 4], ENTITIES[(number + 1) % 4], "strong")


def test_detection_counts_reported_gradients_and_reported_shams():
    real, shams = [case(n) for n in range(10)], [case(n, "wave", confidence=0.1) for n in range(20)]
    reports = asked([*real, *shams], [*map(right, range(9)), NO_PRESSURE, right(0), *[NO_PRESSURE] * 19])
    found = measures.of_detection(reports, ["wave"], *HOW)
    assert (found["rate"], found["shams"], found["false_alarms"]) == (0.9, 20, 1)
    assert found["rate_low"] < 0.9 < found["rate_high"]


def test_a_sham_asked_of_two_projectors_is_one_sham():
    shams = [case(n, "wave", seed=seed) for n in range(5) for seed in (0, 1)]
    reports = asked([*shams, *map(case, range(4))], [NO_PRESSURE] * 10 + [*map(right, range(4))])
    found = measures.of_detection(reports, ["wave"], *HOW)
    assert (found["shams"], found["sham_reports"]) == (5, 10)


def test_calibration_error_is_zero_where_confidence_is_the_share_right_and_the_gap_where_it_is_not():
    right_half = np.array([True, False] * 50)
    assert measures.calibration_error(np.full(100, 0.5), right_half) == pytest.approx(0)
    assert measures.calibration_error(np.full(100, 0.9), right_half) == pytest.approx(0.4)


def test_a_control_is_paired_with_the_real_report_of_the_same_gradient_and_host():
    real, control = [case(n) for n in range(8)], [case(n, "zero") for n in range(8)]
    reports = asked([*real, *control], [*map(right, range(8)), *map(right, range(2)), *[NO_PRESSURE] * 6])
    found = measures.of_controls(reports, ["zero"], *HOW)["zero"]
    assert found["target_accuracy"] == 0.25 and found["target_accuracy_difference"] == 0.75
    assert found["target_accuracy_difference_low"] <= 0.75 <= found["target_accuracy_difference_high"]
    assert found["no_pressure"] == 0.75


def test_circularity_tells_reports_of_the_correction_from_reports_of_the_label():
    cases = [case(n) for n in range(8)]
    wrong = {"p0": "Quito", "p1": "Quito", "p2": "Oslo"}  # the labels of three gradients are wrong
    labels = pl.DataFrame(
        {
            "prompt_id": [f"p{n}" for n in range(8)],
            "label_moved_to": [wrong.get(f"p{n}", ENTITIES[n % 4]) for n in range(8)],
        }
    )
    reports = asked(cases, [report("geography", "Quito", "Lima", "weak"), *map(right, range(1, 8))])
    found = measures.of_circularity(reports, labels, *HOW)
    assert found["gradients"] == 3
    assert (found["says_correction"], found["says_label"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_where_labels_are_right_nothing_is_said_of_circularity():
    reports = asked([case(n) for n in range(4)], [right(n) for n in range(4)])
    labels = pl.DataFrame({"prompt_id": [f"p{n}" for n in range(4)], "label_moved_to": ENTITIES})
    assert measures.of_circularity(reports, labels, *HOW) == {"gradients": 0}


def test_each_held_out_reason_is_a_group_of_its_own():
    reasons = ["target", "subject", "template", "relation"]
    reports = asked([case(n, held_out=reason) for n, reason in enumerate(reasons)], [right(n) for n in range(4)])
    found = measures.groups(reports)
    assert [len(found[f"held_out_{reason}"]) for reason in reasons] == [1] * 4 and found["decoupling"].is_empty()
