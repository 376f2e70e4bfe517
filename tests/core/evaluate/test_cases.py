"""What is asked: premises hold, hosts are others, and a choice depends on the row alone."""

from typing import Any

import polars as pl
import pytest

from stages.core.evaluate.cases import NO_HOST, picked, with_hosts, with_premise
from stages.core.run.errors import InputError


def rows(*changes: dict[str, Any]) -> pl.DataFrame:
    """Rows of the prompts table, each a counterfactual correction unless it says otherwise."""
    made = []
    for number, change in enumerate(changes):
        row = {
            "row": number, "prompt_id": f"id{number}", "domain": "music", "relation": "opera", "subject": f"s{number}",
            "prompt": f"s{number} wrote", "answer": "Aida", "target": "Carmen", "kind": "counterfactual",
            "split": "test", "held_out": "none",
        }  # fmt: skip
        made.append(row | change)
    return pl.DataFrame(made, infer_schema_length=None)


def said(*texts: str) -> pl.DataFrame:
    return pl.DataFrame({"prompt_id": [f"id{number}" for number in range(len(texts))], "continuation_before": texts})


def test_a_premise_holds_where_the_model_says_the_answer():
    """ "Aidan" begins like the answer and is none."""
    found = with_premise(rows({}, {}, {}, {}, {}), said("Aida", "Aida and", "Aidan", "Carmen", "Aida, which"))
    assert found["prompt_id"].to_list() == ["id0", "id1", "id4"]


def test_a_correction_s_answer_is_what_the_model_said_wrongly():
    correction = {"kind": "correction", "answer": None, "target": "Aida"}
    other = {"target": "Tosca", "relation": "song"}
    table = rows({}, correction, correction, correction, other)
    found = with_premise(table, said("Aida", "Carmen now", "Aida", "Tosca", "Aida"))
    assert found.select("prompt_id", "answer", "target").rows() == [
        ("id0", "Aida", "Carmen"),
        ("id1", "Carmen", "Aida"),  # id2 is right, and id3's "Tosca" is of another relation
        ("id4", "Aida", "Tosca"),
    ]


def test_a_model_that_knows_nothing_is_said_to():
    with pytest.raises(ValueError, match=r"data/virtual_step: found no prompt .*model.pocket.steps"):
        with_premise(rows({}, {}), said("Oslo", ""))


def test_a_pick_is_of_so_many_a_domain_and_keeps_its_rows_when_others_go():
    table = rows(*[{"domain": ("music", "history")[number % 2]} for number in range(20)])
    found = picked(table, 3, 0, "grid")
    assert found["domain"].value_counts().sort("domain").rows() == [("history", 3), ("music", 3)]
    assert found["row"].is_sorted() and picked(table, 50, 0, "grid").equals(table)
    assert picked(table.filter(pl.col("domain") == "music"), 3, 0, "grid").equals(
        found.filter(pl.col("domain") == "music")
    )
    assert not picked(table, 3, 1, "grid").equals(found)


POOL = rows(
    *[{"domain": name, "subject": f"{name} {n}", "prompt": f"{name} {n} is"} for name in "abc" for n in range(5)]
)


def test_each_row_meets_each_domain_s_host_and_its_own_domain_s_host_is_about_another_subject():
    found = with_hosts(POOL, POOL, ["a", "b", "c", NO_HOST], 0)
    assert len(found) == 4 * len(POOL)
    for case in found.iter_rows(named=True):
        if case["host_domain"] == NO_HOST:
            assert case["host"] is None and case["host_prompt_id"] is None
        else:
            assert case["host"].startswith(case["host_domain"]) and case["host"] != case["prompt"]


def test_without_a_list_the_host_is_of_one_other_domain():
    found = with_hosts(POOL, POOL, None, 0)
    assert len(found) == len(POOL) and (found["host_domain"] != found["gradient_domain"]).all()
    assert found["host_domain"].n_unique() == 3


def test_without_a_second_domain_it_says_so():
    with pytest.raises(InputError, match="domains: found a alone with test prompts, wanted another one too"):
        with_hosts(POOL.filter(domain="a"), POOL.filter(domain="a"), None, 0)


def test_a_row_s_host_is_the_same_whatever_else_is_asked():
    every, one = with_hosts(POOL, POOL, ["b"], 0), with_hosts(POOL[7:8], POOL, ["b"], 0)
    assert every[7:8].equals(one)
