"""The sentences of claims that no condition makes."""

from typing import Any

import pytest

from stages.core.page.claims import MADE, Claim, claims
from stages.core.page.metrics import groups_of
from tests.core.page.small import BESIDE, numbers

ENDS = ("low", "high")


def made(key: str, **changed: Any) -> Claim:
    """The claim of a group, with some of its numbers changed or, where None, taken out."""
    group = {name: value for name, value in {**BESIDE[key], **changed}.items() if value is not None}
    return claims({one.key: one for one in groups_of({key: group})})[0]


def test_every_claim_says_its_numbers_in_one_sentence_and_what_would_falsify_it() -> None:
    metrics = {**BESIDE, "decoupling": numbers(0.98, reports=1234, malformed=0.01, no_pressure=0.02)}
    found = claims({one.key: one for one in groups_of(metrics)})
    assert [one.label for one in found] == [label for label, _, _ in MADE.values()]
    assert all(one.text.count(". ") == 0 and one.text.endswith(".") and one.falsified for one in found)
    assert [one.holds for one in found] == [True, None, True, True, True, None]
    texts = {one.label: one.text for one in found}
    assert "reported of 98.2\u00a0% (97.1\u201399.2) of real gradients and in 1 of 3\u202f072" in texts["Detection"]
    assert "on 1\u202f024 distinct shams" in texts["Detection"] and "by 3.4 points" in texts["Detection"]
    assert "98.0\u00a0% (96.0\u201399.0; chance 50.0) are called weak and strong" in texts["Strength"]
    assert "97.6\u00a0% (95.7\u201399.2; chance 20.0), and 8.4 nats (8.1 to 8.8)" in texts["Choice of five"]
    assert "(17 gradients), reports name the known one in 84.8\u00a0% (61.5\u201395.5)" in texts["Circularity"]
    assert "the label's in 12.1\u00a0% (2.4\u201330.8)." in texts["Circularity"]
    assert "cosine of 0.43" in texts["Steering vectors"] and "54.1\u00a0% and 4.9\u00a0%" in texts["Steering vectors"]
    assert "1.0\u00a0% can't be read as a report and 2.0\u00a0% say" in texts["Reports that say nothing"]


@pytest.mark.parametrize(
    ("key", "changed", "said"),
    [
        ("detection", {"rate_low": 0.0, "false_alarms": 3000}, "which is null: shams are reported as often"),
        ("strength", {"accuracy": 0.5, "accuracy_low": 0.4}, "which is null: the interval is not above chance"),
        ("options", {"accuracy_low": 0.1}, "which is null: the interval is not above chance"),
        ("options", {"margin_low": -1.0, "accuracy_low": 0.1}, "which is null: the interval includes zero"),
        ("circularity", {"says_label_high": 0.9}, "so the difference is null"),
    ],
)
def test_what_is_null_is_said_to_be(key: str, changed: dict[str, float], said: str) -> None:
    claim = made(key, **changed)
    assert said in claim.text and claim.holds is False


def test_what_could_not_be_measured_is_said_to_be() -> None:
    few = dict.fromkeys([name for name in BESIDE["circularity"] if name.startswith("says_")])
    assert "nothing can be said" in made("circularity", **few, gradients=1).text
    bare = made("circularity", **dict.fromkeys(f"says_{one}_{end}" for one in ("correction", "label") for end in ENDS))
    assert "in 84.8\u00a0% and the label's in 12.1\u00a0%; these are of too few targets" in bare.text
    assert bare.holds is None
    assert "nothing can be said" in made("steering", rows=0, cosine=None).text
    assert "in none of 3\u202f072" in made("detection", false_alarms=0).text
