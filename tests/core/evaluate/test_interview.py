"""The interview: which gradients are asked about, and whose answers and whose slots a peer's are."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from stages.core.data.facts import Domain, World
from stages.core.data.gathering import Gathered
from stages.core.data.questions import Question
from stages.core.evaluate.cases import Questions
from stages.core.evaluate.interview import PER_TARGET, Interview
from stages.core.evaluate.knowledge import answered
from stages.core.evaluate.metrics import peer_scores
from stages.core.evaluate.peers import own_cases, own_slots
from stages.core.evaluate.table import ANSWERS
from stages.core.model.decoder import Decoder
from tests.core.evaluate.small import HOW, raw_reader, slots_of


def table(world: World) -> pl.DataFrame:
    """Test prompts of every relation, toward every other entity of it."""
    made = []
    for domain, name, relation in world.relations:
        for fact in relation.facts:
            for target in relation.entities:
                if target != fact.answer:
                    number = len(made)
                    made.append(
                        {
                            "row": number, "prompt_id": f"id{number}", "domain": domain, "relation": name,
                            "subject": fact.subject, "prompt": relation.templates[0].format(subject=fact.subject),
                            "answer": fact.answer, "target": target, "kind": "counterfactual", "split": "test",
                            "held_out": "target" if target == "Tokyo" else "none",
                        }
                    )  # fmt: skip
    return pl.DataFrame(made)


@pytest.fixture(scope="module")
def world(small_domains: list[Domain]) -> World:
    return World.of(small_domains)


@pytest.fixture(scope="module")
def rows(world: World) -> pl.DataFrame:
    return table(world)


def interview(rows: pl.DataFrame, world: World, sets: dict[str, Question] | None = None) -> Interview:
    return Interview.of(Questions(rows, rows, ["geography", "music"], HOW), world, sets or {}, ["capital"])


def few(rows: pl.DataFrame, world: World) -> tuple[Interview, list[tuple[str, str]]]:
    """About four gradients, and the names that they move to and from."""
    every = interview(rows, world)
    chosen = pl.concat([every.cases.filter(pl.col("target") == name)[:1] for name in ("Lima", "Peru", "Verdi", "Oslo")])
    made = Interview(chosen, world, {}, ["capital"], HOW)
    return made, list(chosen.select("target", "answer").iter_rows())


def test_so_many_gradients_of_each_target_are_asked_about_before_a_foreign_host(rows: pl.DataFrame, world: World):
    cases = interview(rows, world).cases
    counts = cases["target"].value_counts()
    assert set(counts["target"]) == set(rows["target"]) and set(counts["count"]) == {PER_TARGET}
    assert (cases["host_domain"] != cases["gradient_domain"]).all() and cases["prompt_id"].is_unique().all()
    assert set(cases.filter(pl.col("target") == "Tokyo")["held_out"]) == {"target"}
    assert cases["relation"].to_list() == [rows["relation"][row] for row in cases["row"]]


@pytest.mark.parametrize(
    "change",
    [{"held_out": "subject"}, {"held_out": "template"}, {"held_out": "answer"}, {"split": "train"},
     {"kind": "correction"}, {"target": "Quito"}, {"target": "Carmen"}],
)  # fmt: skip
def test_what_is_held_out_otherwise_or_is_no_answer_of_the_world_is_not_asked_about(
    rows: pl.DataFrame, world: World, change: dict[str, str]
):
    """Quito is in no file of facts, and Carmen answers nothing there."""
    left_out = pl.col("row") % 2 == 0
    changed = rows.with_columns(
        pl.when(left_out).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in change.items()
    )
    found = interview(changed, world).cases
    assert len(found) and (found["row"] % 2 == 1).all()


def test_the_lexicon_has_the_domain_of_every_name_that_answers(world: World):
    found = world.lexicon
    assert found["Lima"] == found["Peru"] == "geography" and found["verism"] == "music" and "Carmen" not in found


def test_the_main_model_is_asked_the_sets_of_questions_and_from_its_own_knowledge(
    rows: pl.DataFrame, world: World, small_questions: dict[str, Question], trained_decoder: Decoder
):
    made, pairs = few(rows, world)
    made = replace(made, questions={"toward": small_questions["toward"]}, how=HOW.model_copy(update={"edits": 0}))
    reader = raw_reader(trained_decoder)
    found, edits = made.of_main(reader, slots_of(reader, *pairs))
    assert edits == {}  # where none is asked for, none is made
    assert found.schema == pl.Schema(ANSWERS) and set(found["model"]) == {"main"}
    assert set(found["reading"]) == {"asked", "raw", "freed", "named", "shuffled", "nearest"}
    nearest = found.filter(pl.col("reading") == "nearest")
    assert (nearest["said"] == nearest["world"]).all()  # the slots hold the names, and the facts are the world's


def test_a_peer_answers_from_its_own_gradients_and_from_those_of_the_main_model(
    rows: pl.DataFrame, world: World, trained_decoder: Decoder
):
    """What is foreign are the slots alone: what is right is the peer's own."""
    made, pairs = few(rows, world)
    peer = raw_reader(trained_decoder)
    slots = slots_of(peer, *[(away, to) for to, away in pairs])  # as nobody's gradients would fill them
    reports, found = made.of_peer(peer, slots, "other")
    own = own_cases(peer, made.cases, world, HOW.report_tokens)
    assert reports["prompt_id"].to_list() == own["prompt_id"].to_list() and set(reports["condition"]) == {"other"}
    assert set(found["reading"]) == {"raw", "freed", "named", "shuffled", "nearest", "foreign"}
    assert set(found["model"]) == {"other"}
    foreign = answered(peer, made.rows(peer, made.cases), "foreign", slots, HOW.report_tokens, "other")
    assert found.filter(pl.col("reading") == "foreign").equals(foreign)
    raw = answered(peer, made.rows(peer, own), "raw", own_slots(peer, own), HOW.report_tokens, "other")
    assert found.filter(pl.col("reading") == "raw").equals(raw)


def test_a_peer_that_has_nothing_to_correct_reports_nothing_and_is_scored_on_nothing(
    rows: pl.DataFrame, world: World, trained_decoder: Decoder
):
    """It says the target of every case already."""
    made, pairs = few(rows, world)
    peer = raw_reader(trained_decoder)
    known = {"target": "Lima", "prompt": "The capital of Peru is", "relation": "capital"}
    made = replace(made, cases=made.cases.with_columns(**{name: pl.lit(value) for name, value in known.items()}))
    reports, found = made.of_peer(peer, slots_of(peer, *pairs), "other")
    assert reports.is_empty() and peer_scores(reports) == {} and set(found["reading"]) == {"foreign"}


def test_slots_are_of_the_cases_own_gradients(rows: pl.DataFrame, world: World, small_decoder: Decoder):
    made, reader = interview(rows, world), raw_reader(small_decoder)
    shape = (len(rows), len(reader.card.places), small_decoder.d_model)
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0)).numpy()
    found = made.slots(reader, Gathered(rows, gradient, gradient, [1], reader.card.places))
    wanted = reader.read(torch.from_numpy(gradient[made.cases["row"].to_numpy()]))
    torch.testing.assert_close(found.felt, wanted.felt)
