"""What the evaluation asks, and whom: the grid, held-out groups, and controls on the real gradients' own cases."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from stages.core.data.gathering import Gathered
from stages.core.evaluate.asking import Asking, Piece, pieces_of
from stages.core.evaluate.cases import NO_HOST, Questions
from stages.core.evaluate.conditions import ALL
from stages.core.evaluate.section import Evaluation
from stages.core.model.decoder import Decoder
from stages.core.reader.reader import Reader
from stages.core.reader.reports import answers_of
from tests.core.reader.teaching import new_reader, settings

CONDITIONS = {condition.name: condition for condition in ALL}
FACTLESS = ("already_said", "any_word")
HOW = Evaluation(gradients=2, fine_tuned=1, edits=0, step_sizes=[1.0], bootstrap=10, report_tokens=4, seed=0)
DOMAINS = ["geography", "history", "music"]


def table(*changes: dict[str, Any]) -> pl.DataFrame:
    """Rows of the prompts table: of the test split and nothing held out, unless they say otherwise."""
    made = [
        {
            "row": number, "prompt_id": f"id{number}", "domain": "music", "relation": "of", "subject": f"s{number}",
            "prompt": f"The composer of s{number} is", "answer": "Verdi", "target": f"t{number}",
            "kind": "counterfactual", "split": "test", "held_out": "none",
        } | change
        for number, change in enumerate(changes)
    ]  # fmt: skip
    return pl.DataFrame(made, infer_schema_length=None)


def asked(every: pl.DataFrame, rows: pl.DataFrame | None = None, how: Evaluation = HOW) -> dict[str, pl.DataFrame]:
    """`rows`: those whose premise holds; None: every row's does."""
    questions = Questions(every, every if rows is None else rows, DOMAINS, how)
    found = {name: condition.cases(questions) for name, condition in CONDITIONS.items()}
    return {name: cases for name, cases in found.items() if len(cases)}


SEEN = [{"domain": name} for name in DOMAINS for _ in range(3)]
HELD = [{"held_out": reason} for reason in ("target", "kind", "subject", "template")]
TRAINED = [{"split": "train"}, {"split": "validation", "held_out": "target"}]
CORRECTION = {"kind": "correction", "held_out": "subject"}


@pytest.fixture(scope="module")
def cases() -> dict[str, pl.DataFrame]:
    return asked(table(*SEEN, *HELD, *TRAINED, CORRECTION))


def test_the_grid_is_so_many_seen_gradients_a_domain_before_a_host_of_every_domain_and_none(
    cases: dict[str, pl.DataFrame],
):
    grid = cases["real"].filter(pl.col("held_out") == "none")
    counts = grid.group_by("gradient_domain", "host_domain").len()
    assert len(counts) == 3 * 4 and (counts["len"] == HOW.gradients).all()
    assert set(grid["host_domain"]) == {*DOMAINS, NO_HOST} and set(grid["row"]) < set(range(9))


def test_what_is_held_out_is_asked_once_before_a_foreign_host_and_corrections_are_called_so(
    cases: dict[str, pl.DataFrame],
):
    """The correction's subject is held out too; no row of another split is asked about."""
    rest = cases["real"].filter(pl.col("held_out") != "none")
    assert rest.select("row", "held_out").rows() == [
        (9, "target"), (10, "kind"), (11, "subject"), (12, "template"), (15, "correction"),
    ]  # fmt: skip
    assert (rest["host_domain"] != rest["gradient_domain"]).all()


def test_every_host_is_a_seen_test_prompt(cases: dict[str, pl.DataFrame]):
    for of in cases.values():
        hosts = of["host_prompt_id"].drop_nulls()
        assert set(hosts) <= {f"id{row}" for row in range(9)}


def test_every_control_is_asked_the_same_cases_which_real_gradients_were_asked_too(cases: dict[str, pl.DataFrame]):
    assert set(cases) == {*CONDITIONS} and next(iter(cases)) == "real"
    on = ["prompt_id", "host_prompt_id"]
    for name in set(cases) - {"real", "fine_tuned", "fine_tuned_ungated", "false_host", *FACTLESS}:
        assert cases[name].equals(cases["zero"])
    assert cases["zero"].join(cases["real"], on=on, how="anti").is_empty() and len(cases["zero"]) == 6
    assert cases["fine_tuned"].join(cases["zero"], on=on, how="anti").is_empty() and len(cases["fine_tuned"]) == 3
    assert cases["false_host"].select(on).equals(cases["zero"].select(on))
    assert not set(cases["false_host"]["host"]) & set(cases["zero"]["host"])


def test_gradients_that_correct_no_fact_are_toward_what_is_said_already_or_a_word_of_no_name(
    cases: dict[str, pl.DataFrame],
):
    for name in FACTLESS:
        assert cases[name].drop("target").equals(cases["zero"].drop("target"))
    assert cases["already_said"]["target"].equals(cases["zero"]["answer"])
    words, names = set(cases["any_word"]["target"]), {*cases["real"]["target"], *cases["real"]["answer"]}
    assert words and not words & names and all(word in " ".join(cases["real"]["prompt"]).split() for word in words)


def test_a_domain_with_one_gradient_is_not_shuffled_within():
    every = table(*SEEN)
    found = asked(every, every.filter(pl.col("row") > 1))
    assert set(found["zero"]["gradient_domain"]) == {*DOMAINS} and len(found["zero"]) == 5
    assert found["shuffled_within"].equals(found["zero"].filter(pl.col("gradient_domain") != "geography"))
    lone = asked(every, how=HOW.model_copy(update={"gradients": 1}))
    assert "shuffled_within" not in lone and len(lone["shuffled_across"]) == 3


def test_real_fine_tuning_can_be_left_out():
    found = asked(table(*SEEN), how=HOW.model_copy(update={"fine_tuned": 0}))
    assert not {"fine_tuned", "fine_tuned_ungated"} & set(found) and "steering_vector" in found


@pytest.mark.parametrize(("lora", "times"), [(None, 1), ({"rank": 2, "alpha": 4, "learning_rate": 0.01}, 2)])
def test_where_the_projector_has_no_part_one_seed_is_asked_unless_lora_has(
    small_decoder: Decoder, lora: dict[str, Any] | None, times: int
):
    readers = [new_reader(small_decoder, settings(seeds=[seed], lora=lora)) for seed in (0, 1)]
    bias = new_reader(small_decoder, settings(architecture="bias_only"))
    every = table(*SEEN)
    asked: dict[str, list[Reader]] = {name: [] for name in CONDITIONS}
    for piece in pieces_of(Questions(every, every, DOMAINS, HOW), readers, bias):
        asked[piece.condition.name].append(piece.reader)
    for name in ("none", "lens_tokens"):
        assert asked[name] == readers[:times]
    for name in ("real", "zero", "fine_tuned"):
        assert asked[name] == readers
    assert asked["bias_only"] == [bias]


def test_with_the_gate_open_nothing_is_silenced(small_decoder: Decoder, cases: dict[str, pl.DataFrame]):
    reader = new_reader(small_decoder, settings(places=["target_1"]))
    reader.gate.threshold.fill_(2.0)  # more evidence than there can be
    numbers = np.random.default_rng(0).standard_normal((16, 2, 32)).astype(np.float32)
    every = table(*SEEN, *HELD, *TRAINED, CORRECTION)
    questions = Questions(every, every, DOMAINS, HOW)
    asking = Asking(Gathered(every, numbers, numbers, [0, 1]), questions, reader.decoder)
    pieces = [Piece(CONDITIONS[f"activation{end}"], cases["activation"], reader) for end in ("", "_ungated")]
    shut, opened = map(asking.reports, pieces)
    assert (shut["confidence"] < 0.5).all() and opened["confidence"].is_null().all()
    slots = reader.read(torch.tensor(asking.vectors(pieces[0])))
    wanted = answers_of(reader, opened["host"].to_list(), reader.card.question, slots, HOW.report_tokens)
    assert opened["report"].to_list() == wanted
