import polars as pl

from stages.core.page.examples import OUTCOMES, TAKEN, answered, chosen, counts, questions, settled
from stages.core.run.seeds import digest
from tests.core.page import fake


def test_rows_are_the_first_of_each_setting_and_outcome_in_hash_order() -> None:
    table = settled(fake.reports())
    rows = chosen(table, 3)
    keys = sorted(
        (
            digest(row["prompt_id"], row["host_prompt_id"] or "", row["condition"], row["held_out"], row["seed"]),
            row["setting"],
            row["outcome"],
        )
        for row in table.iter_rows(named=True)
    )
    expected: dict[tuple[str, str], list[str]] = {}
    for order, setting, outcome in keys:
        expected.setdefault((setting, outcome), []).append(order)
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row["setting"], row["outcome"]), []).append(row["order"])
    assert found == {key: orders[:3] for key, orders in expected.items()}
    assert rows[0]["setting"] == "decoupling" and rows[0]["outcome"] == "right"


def test_the_order_of_the_table_changes_nothing() -> None:
    reports = fake.reports()
    assert chosen(settled(reports), 3) == chosen(settled(reports.reverse()), 3)


def test_what_a_report_says_does_not_change_whether_it_is_shown() -> None:
    reports = fake.reports()
    other = reports.with_columns(report=pl.lit("strong"), domain=pl.lit("x"))
    orders = [[row["order"] for row in chosen(settled(table), 3)] for table in (reports, other)]
    assert orders[0] == orders[1]


def test_every_report_has_one_setting_and_one_outcome() -> None:
    reports = fake.reports()
    table = settled(reports)
    assert sum(sum(sizes.values()) for sizes in counts(table).values()) == len(reports)
    assert set(counts(table)) >= {"decoupling", "same_domain", "no_host", "held_out_target", "controls.zero"}
    assert all(list(sizes) == list(OUTCOMES) for sizes in counts(table).values())
    right = table.filter(pl.col("outcome") == "right").select("domain_right", "target_right", "answer_right")
    assert right.to_numpy().all()
    assert table.filter(pl.col("outcome") == "host")["host_intrusion"].all()
    assert counts(table)["controls.zero"]["silent"] == table.filter(pl.col("condition") == "zero").height


def test_answers_are_the_first_of_each_model_and_kind_in_hash_order_beside_every_reading() -> None:
    reports = fake.reports()
    answers = fake.answers(reports)
    rows = answered(answers, reports)
    kinds = [(row["model"], row["own"], row["right"]) for row in rows]
    assert kinds[:2] == [("main", True, True)] * TAKEN and {row["model"] for row in rows} == {"main", "permuted"}
    assert all(kinds.count(kind) <= TAKEN for kind in kinds)
    assert all(row["own"] == (row["expected"] != row["world"]) for row in rows)
    for row in rows:
        said = answers.filter(*(pl.col(name) == row[name] for name in ("model", "prompt_id", "asks")))
        assert {one["reading"]: one["said"] for one in said.iter_rows(named=True)}.items() <= row.items()
        assert "<felt>" in row["question"] and row["prompt"]
    assert rows == answered(answers.reverse().sort("model"), reports.reverse())


def test_of_each_question_a_right_and_a_wrong_answer_are_shown() -> None:
    reports = fake.reports()
    found = questions(fake.answers(reports), reports)
    assert [(row["asks"], row["right"]) for row in found] == [("toward", True), ("toward", False)]
