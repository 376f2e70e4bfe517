"""The numbers of metrics.json say what they claim, on reports made up so that the numbers are known."""

import polars as pl
import pytest

from stages.core.data.grammar import NO_PRESSURE, report
from stages.core.evaluate import metrics
from stages.core.evaluate.estimate import Estimate
from stages.core.evaluate.scores import Words, real_groups, scored
from stages.core.evaluate.section import Evaluation
from stages.core.evaluate.statistics import exact_high

HOW = Evaluation(gradients=8, fine_tuned=1, edits=0, step_sizes=[1.0], bootstrap=200, report_tokens=4, seed=0)
ENTITIES = ["Oslo", "Lima", "Accra", "Quito", "Rome", "Bern", "Cairo", "Delhi", "Hanoi", "Minsk", "Paris", "Seoul"]
COUNT = len(ENTITIES)
WORDS = Words(frozenset(ENTITIES), frozenset({"geography", "music"}))


def case(number: int, condition: str = "real", **columns: object) -> dict[str, object]:
    """A case in front of a foreign host: toward one of ENTITIES and away from the next."""
    target, answer = ENTITIES[number % COUNT], ENTITIES[(number + 1) % COUNT]
    identity = {"prompt_id": f"p{number}", "host_prompt_id": f"h{number}", "condition": condition, "held_out": "none"}
    texts = {"gradient_domain": "geography", "host_domain": "music", "prompt": "x", "host": "y"}
    return identity | texts | {"target": target, "answer": answer, "seed": 0, "confidence": 0.9} | columns


def asked(cases: list[dict[str, object]], said: list[str]) -> pl.DataFrame:
    return scored(pl.DataFrame(cases), said)


def right(number: int) -> str:
    return report("geography", ENTITIES[number % COUNT], ENTITIES[(number + 1) % COUNT])


def test_detection_counts_reported_gradients_and_reported_shams():
    real, shams = [case(n) for n in range(12)], [case(n, "wave", confidence=0.1) for n in range(20)]
    reports = asked([*real, *shams], [*map(right, range(9)), *[NO_PRESSURE] * 3, right(0), *[NO_PRESSURE] * 19])
    found = metrics.detection(reports, ["wave"])
    assert (found["rate"].value, found["shams"], found["false_alarms"], found["shams_reported"]) == (0.75, 20, 1, 1)
    assert found["rate"].low < 0.75 < found["rate"].high
    assert found["false_alarms_high"] == exact_high(1, 20)


def test_a_malformed_report_on_a_sham_is_a_false_alarm_and_on_a_gradient_no_detection():
    reports = asked([case(0), case(1), case(0, "wave"), case(1, "wave")], [right(0), "?", "?", NO_PRESSURE])
    found = metrics.detection(reports, ["wave"])
    assert (found["rate"].value, found["false_alarms"], found["shams_reported"]) == (0.5, 1, 1)


def test_a_sham_asked_of_two_projectors_is_one_sham():
    """The bound is of shams that any projector reports: copies of a sham make it no tighter."""
    shams = [case(n, "wave", seed=seed) for n in range(5) for seed in (0, 1)]
    said = [right(0), right(0), NO_PRESSURE, right(0), *[NO_PRESSURE] * 6]
    reports = asked([*shams, *map(case, range(4))], [*said, *map(right, range(4))])
    found = metrics.detection(reports, ["wave"])
    assert (found["shams"], found["sham_reports"]) == (5, 10)
    assert (found["false_alarms"], found["shams_reported"]) == (3, 2)
    assert found["false_alarms_high"] == exact_high(2, 5)


def test_the_calibration_error_counts_a_gradient_once_a_seed_and_not_once_a_host():
    """One gradient in front of nine hosts is right, twelve in front of one are wrong: 0.9 said, 1 in 13 right."""
    many = [case(0, host_prompt_id=f"host {n}") for n in range(9)]
    reports = asked([*many, *(case(n) for n in range(1, 13))], [right(0)] * 9 + [right(0)] * 11 + [right(1)])
    found = metrics.group_scores(reports, HOW)["decoupling"]
    assert (found["gradients"], found["reports"]) == (13, 21)
    error = found["calibration_error"]
    assert error.value == pytest.approx(0.9 - 1 / 13) and error.low < error.value < error.high


def test_shams_that_are_rightly_doubted_lower_the_calibration_error_of_detection_alone():
    real, shams = [case(n) for n in range(10)], [case(n, "wave", confidence=0.0) for n in range(30)]
    reports = asked([*real, *shams], [*map(right, range(5)), *map(right, range(5)), *[NO_PRESSURE] * 30])
    assert metrics.group_scores(reports, HOW)["decoupling"]["calibration_error"].value == pytest.approx(0.4)
    assert metrics.detection(reports, ["wave"])["calibration_error"].value == pytest.approx(0.1)


def test_a_control_is_paired_with_the_real_report_of_the_same_gradient_and_host():
    real, control = [case(n) for n in range(12)], [case(n, "zero") for n in range(12)]
    reports = asked([*real, *control], [*map(right, range(12)), *map(right, range(3)), *[NO_PRESSURE] * 9])
    found = metrics.control_scores(reports)["zero"]
    target = found["target_accuracy"]
    assert target.value == 0.25 and target.difference.value == 0.75
    assert target.difference.low < 0.75 < target.difference.high
    assert found["no_pressure"] == 0.75


def test_a_control_of_one_seed_is_paired_with_the_mean_over_seeds():
    real = [case(n, seed=seed) for n in range(12) for seed in (0, 1)]
    said = [text for n in range(12) for text in (right(n), NO_PRESSURE)]
    reports = asked([*real, *(case(n, "none") for n in range(12))], said + [NO_PRESSURE] * 12)
    found = metrics.control_scores(reports)["none"]
    assert found["target_accuracy"].difference.value == 0.5


def test_a_control_that_does_exactly_as_well_still_has_an_interval():
    reports = asked(
        [case(n, name) for name in ("real", "sign_flipped") for n in range(12)], [*map(right, range(12))] * 2
    )
    found = metrics.control_scores(reports)["sign_flipped"]
    bound = 1 - 0.025 ** (1 / 12)
    difference = found["target_accuracy"].difference
    assert difference.value == 0
    assert (difference.low, difference.high) == (pytest.approx(-bound), pytest.approx(bound))


def test_a_control_that_the_gate_silences_is_as_good_where_it_speaks():
    said = [*map(right, range(11)), *[NO_PRESSURE] * 33]
    reports = asked([*map(case, range(44)), *(case(n, "zero") for n in range(44))], [*map(right, range(44)), *said])
    found = metrics.control_scores(reports)["zero"]
    target = found["target_accuracy"]
    assert (target.value, found["reports_spoken"], target.spoken.value) == (0.25, 11, 1)
    assert target.spoken.entities == 11 and target.spoken.high == 1
    assert target.spoken.chance == pytest.approx(1 / 11)


def test_a_control_that_hardly_speaks_says_that_it_has_no_interval():
    reports = asked(
        [*map(case, range(12)), *(case(n, "zero") for n in range(12))],
        [*map(right, range(12)), right(0), right(0), *[NO_PRESSURE] * 10],
    )
    found = metrics.control_scores(reports)["zero"]
    target = found["target_accuracy"]
    assert (found["reports_spoken"], target.spoken.entities, target.spoken.value) == (2, 2, 0.5)
    assert target.spoken.reason == "found 2 entities, wanted at least 10 for an interval"
    assert target.spoken.low is None and target.low is not None


def test_a_group_of_few_entities_is_there_with_the_reason_for_its_missing_intervals():
    reports = asked([case(0), case(12)], [right(0), NO_PRESSURE])
    found = metrics.group_scores(reports, HOW)["decoupling"]
    assert (found["target_accuracy"].value, found["target_accuracy"].entities) == (0.5, 1)
    assert found["target_accuracy"].reason == "found 1 entities, wanted at least 10 for an interval"
    estimates = [one for one in found.values() if isinstance(one, Estimate)]
    assert len(estimates) == 5 and all(one.low is None and one.high is None for one in estimates)
    bars = metrics.condition_table({"decoupling": found, "controls": {}})
    assert bars["low"].is_null().all() and not bars["value"].is_null().any()


def test_reports_of_no_known_entity_or_domain_are_vague():
    said = [right(0), report("geography", "it", "that"), report("things", "Lima", "Oslo"), NO_PRESSURE]
    found = metrics.group_scores(asked([*map(case, range(4))], said), HOW, WORDS)["decoupling"]
    assert (found["vague"], found["no_pressure"], found["malformed"]) == (0.5, 0.25, 0)
    controls = metrics.control_scores(asked([case(n, "zero") for n in range(4)], said), WORDS)
    assert controls["zero"]["vague"] == 0.5


def test_every_headline_number_is_told_of_each_seed():
    flipped = {"target": ENTITIES[1], "answer": ENTITIES[0]}
    swapped, half = report("geography", ENTITIES[1], ENTITIES[0]), report("geography", "Lima", "Rome")
    told = {
        0: [right(0), right(1), swapped, swapped, NO_PRESSURE, NO_PRESSURE],
        1: [right(0), NO_PRESSURE, swapped, half, right(0), "?"],
    }
    cases = [
        case(0), case(1, held_out="target"), case(0, "sign_flipped", **flipped),
        case(12, "sign_flipped", **flipped), case(0, "wave"), case(1, "wave"),
    ]  # fmt: skip
    reports = asked([one | {"seed": seed} for seed in told for one in cases], [*told[0], *told[1]])
    found = metrics.seed_scores(reports, ["wave"])
    first, second = found["0"], found["1"]
    names = ("detection_rate", "decoupling_target_accuracy", "held_out_target_answer_accuracy")
    assert [first[name] for name in names] == [1, 1, 1] and [second[name] for name in names] == [1, 1, 0]
    assert [one["sign_flipped_target_accuracy"] for one in (first, second)] == [1, 1]
    assert [one["sign_flipped_answer_accuracy"] for one in (first, second)] == [1, 0.5]
    assert [one["sign_flipped_both_words"] for one in (first, second)] == [1, 0.5]
    assert [(one["sham_reports"], one["false_alarms"]) for one in (first, second)] == [(2, 0), (2, 2)]


def test_a_seed_says_nothing_of_what_it_was_not_asked():
    found = metrics.seed_scores(asked([case(0)], [right(0)]), ["wave"])["0"]
    assert found["decoupling_target_accuracy"] == 1
    assert not [name for name in found if name.startswith(("held_out", "sign_flipped"))]


def test_circularity_tells_reports_of_the_correction_from_reports_of_the_label():
    cases = [case(n) for n in range(8)]
    wrong = {"p0": "Quito", "p1": "Quito", "p2": "Oslo"}  # the labels of three gradients are wrong
    labels = pl.DataFrame(
        {
            "prompt_id": [f"p{n}" for n in range(8)],
            "label_moved_to": [wrong.get(f"p{n}", ENTITIES[n]) for n in range(8)],
        }
    )
    reports = asked(cases, [report("geography", "Quito", "Lima"), *map(right, range(1, 8))])
    found = metrics.correction_or_label(reports, labels)
    known, label = found["says_correction"], found["says_label"]
    assert (found["gradients"], known.entities) == (3, 3)
    assert (known.value, label.value) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert known.reason == "found 3 entities, wanted at least 10 for an interval"


def test_where_labels_are_right_nothing_is_said_of_circularity():
    reports = asked([case(n) for n in range(4)], [right(n) for n in range(4)])
    labels = pl.DataFrame({"prompt_id": [f"p{n}" for n in range(4)], "label_moved_to": ENTITIES[:4]})
    found = metrics.correction_or_label(reports, labels)
    assert found == {"gradients": 0}


def test_each_held_out_reason_is_a_group_of_its_own():
    reasons = ["target", "kind", "subject", "template"]
    reports = asked([case(n, held_out=reason) for n, reason in enumerate(reasons)], [right(n) for n in range(4)])
    found = real_groups(reports)
    assert [len(found[f"held_out_{reason}"]) for reason in reasons] == [1] * 4 and found["decoupling"].is_empty()
    assert set(metrics.group_scores(reports, HOW)) == {f"held_out_{reason}" for reason in reasons}
