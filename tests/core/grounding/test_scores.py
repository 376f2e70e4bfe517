"""What texts explain, which reports are swapped, and how negatives are told apart."""

import numpy as np
import polars as pl
import pytest

from stages.core.grounding.scores import share_above, swapped, text_scores


def test_a_share_is_1_at_best_and_rows_without_an_update_are_not_counted():
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((24, 8)).astype(np.float32)
    wanted[:4] = 0
    cases = pl.DataFrame({"held_out": ["none", "kind"] * 12, "target": [f"name {row}" for row in range(24)]})
    texts = {"report": wanted, "empty": np.zeros_like(wanted), "shuffled": -wanted}
    found = {name: text_scores(each, wanted, cases) for name, each in texts.items()}
    assert {name: each["explained_seen"].value for name, each in found.items()} == {
        "report": 1, "empty": 0, "shuffled": -3,
    }  # fmt: skip
    assert found["shuffled"]["cosine_held_out_kind"].value == -1
    assert found["report"]["explained_seen"].rows == 10 and found["report"]["explained_seen"].high == 1
    assert "explained_held_out_target" not in found["report"]


def test_a_swapped_report_names_the_target_of_a_correction_of_the_same_prompt():
    prompts = pl.DataFrame(
        {
            "row": [0, 1, 2, 3], "prompt": ["The capital of Peru is"] * 3 + ["The capital of Norway is"],
            "answer": ["Lima", "Lima", None, "Oslo"], "target": ["Oslo", "Tokyo", "Lima", "Tokyo"],
            "kind": ["counterfactual", "counterfactual", "correction", "counterfactual"],
        }
    )  # fmt: skip
    cases = prompts.filter(kind="counterfactual").with_columns(
        prompt_id=pl.Series(["a", "b", "c"]),
        report=pl.Series([f"toward {to} , away from Lima" for to in ("Oslo", "Tokyo", "Tokyo")]),
        moved_to=pl.col("target"),
    )
    found = swapped(cases, prompts)
    assert found["report_swapped"].to_list() == ["toward Tokyo , away from Lima", "toward Oslo , away from Lima"]
    assert found["row_other"].to_list() == [1, 0]
    assert swapped(cases.with_columns(moved_to=pl.lit("")), prompts).is_empty()


def test_the_mean_share_above_is_the_area_under_the_curve_by_all_pairs():
    rng = np.random.default_rng(0)
    real, negatives = rng.integers(0, 20, 40) / 20, rng.integers(0, 15, 30) / 20
    pairs = (real[:, None] > negatives).mean() + (real[:, None] == negatives).mean() / 2
    assert share_above(real, negatives).mean() == pytest.approx(pairs)


def test_all_above_is_one_all_below_none_and_all_equal_a_half():
    low, high = np.zeros(3), np.ones(4)
    assert share_above(high, low).tolist() == [1.0] * 3
    assert share_above(low, high).tolist() == [0.0] * 4
    assert share_above(low, low).tolist() == [0.5] * 3
