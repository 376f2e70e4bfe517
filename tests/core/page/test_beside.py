"""Reports held against what writes none."""

from typing import Any

import pytest

from stages.core.page.claims import claims
from tests.core.page.small import BESIDE, groups, numbers, with_differences

SEEN = with_differences(
    numbers(0.98), domain=(0.014, 0.001, 0.031), target=(0.006, -0.012, 0.024), answer=(0.25, 0.2, 0.31)
)
NEW = with_differences(
    numbers(0.99), domain=(-0.05, -0.08, -0.02), target=(-0.08, -0.14, -0.03), answer=(0.15, 0.07, 0.23)
)
MORE = with_differences(numbers(0.7), target=(0.2, 0.1, 0.3))


def made(label: str, **metrics: Any) -> tuple[str, bool | None]:
    """The text of a claim, and whether it holds."""
    (claim,) = (one for one in claims(groups(**metrics)) if one.label == label)
    return claim.text, claim.holds


def test_the_lens_is_said_to_read_new_targets_better_and_the_reports_the_answer_and_the_sign() -> None:
    controls = {"sign_flipped": numbers(0.97)}
    text, holds = made("Untrained lens", floor=SEEN | {"held_out_target": NEW}, controls=controls, **BESIDE)
    assert holds is None
    assert text.split(". ") == [
        "The lens, which nothing trained, names the target in 98.0\u00a0% (97.0\u201399.0) with nothing held out and "
        "in 99.0\u00a0% (98.0\u2013100) toward held-out names",
        "Reports are held against the lens on the same gradients",
        "With nothing held out they are better in domain (1.4 points, "
        "0.1\u20133.1) and answer (25.0 points, 20.0\u201331.0), no different in target "
        "(null, \u22121.2 to 2.4 points)",
        "Toward held-out names they are better in answer "
        "(15.0 points, 7.0\u201323.0), worse in domain (5.0 points, 2.0\u20138.0) and target (8.0 points, "
        "3.0\u201314.0)",
        "With the sign flipped reports name what is then the target in 97.0\u00a0%, the lens in 98.0\u00a0%.",
    ]


@pytest.mark.parametrize(
    ("new", "missed"), [({"held_out_target": NEW}, False), ({}, False), ({"held_out_kind": MORE}, True)]
)
def test_where_taking_the_model_out_costs_no_target_it_is_said_not_to_be_missed(
    new: dict[str, Any], missed: bool
) -> None:
    text, holds = made("Naming without the model", without_model=SEEN | new)
    assert holds is None and text.endswith("taken out, it is not missed there.") is not missed


def test_without_pairs_nothing_follows() -> None:
    text, holds = made("Untrained lens", floor=numbers(0.9))
    assert holds is None and "Against the lens nothing was measured with an interval." in text


@pytest.mark.parametrize("about", ["the linear probe", "the nearest training gradient"])
def test_references_that_were_taught_stand_in_one_claim(about: str) -> None:
    new = {"held_out_target": with_differences(numbers(0.0), target=(0.92, 0.86, 0.97))}
    text, holds = made("Linear probe and retrieval", ceiling=SEEN | new, retrieval=SEEN | new)
    assert holds is None
    said = text.split(f"Reports are held against {about} on the same gradients. ")[1].split("Reports are held")[0]
    assert said.startswith("With nothing held out they are better in domain (1.4 points, 0.1\u20133.1)")
    assert "Toward held-out names they are better in target (92.0 points, 86.0\u201397.0)." in said
    assert text.endswith("Neither can name a target that it was not taught.")
