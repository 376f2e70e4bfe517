"""The interview: which gradients are asked about, and whose answers and whose slots a peer's are."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from stages.core.data.facts import Domain, World
from stages.core.data.gathering import Gathered
from stages.core.data.questions import Question
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import samples_of
from stages.core.evaluate.answers import answered
from stages.core.evaluate.asking import own_gradients, written
from stages.core.evaluate.cases import Questions
from stages.core.evaluate.fine_tuning import trainable, tune
from stages.core.evaluate.interview import PER_TARGET, Interview, own_cases, peer_reader, peers_of
from stages.core.evaluate.metrics import peer_scores
from stages.core.evaluate.table import ANSWERS, REPORTS
from stages.core.model.decoder import Decoder
from stages.core.model.opening import card_of
from stages.core.model.section import Peer
from stages.core.reader.injection import Slots
from stages.core.reader.reader import Reader
from stages.core.run.files import write_json
from tests.core.evaluate.small import HOW, cases_of, raw_reader, sample_of, slots_of
from tests.core.reader.teaching import LAYERS, new_reader, settings


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


def own_slots(reader: Reader, cases: pl.DataFrame) -> Slots:
    """What the model's own gradients of these corrections put into its slots."""
    return reader.read(torch.from_numpy(own_gradients(reader, cases)))


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


def test_a_peer_answers_from_its_own_gradients(rows: pl.DataFrame, world: World, trained_decoder: Decoder):
    made, _ = few(rows, world)
    peer = raw_reader(trained_decoder)
    reports, found = made.of_peer(peer, "other")
    own = own_cases(peer, made.cases, world, HOW.report_tokens)
    assert reports["prompt_id"].to_list() == own["prompt_id"].to_list() and set(reports["condition"]) == {"other"}
    assert set(found["reading"]) == {"raw", "freed", "named", "shuffled", "nearest"}
    assert set(found["model"]) == {"other"}
    raw = answered(peer, made.rows(peer, own), "raw", own_slots(peer, own), HOW.report_tokens, "other")
    assert found.filter(pl.col("reading") == "raw").equals(raw)


def test_a_peer_that_has_nothing_to_correct_reports_nothing_and_is_scored_on_nothing(
    rows: pl.DataFrame, world: World, trained_decoder: Decoder
):
    """It says the target of every case already."""
    made, _ = few(rows, world)
    peer = raw_reader(trained_decoder)
    known = {"target": "Lima", "prompt": "The capital of Peru is", "relation": "capital"}
    made = replace(made, cases=made.cases.with_columns(**{name: pl.lit(value) for name, value in known.items()}))
    reports, found = made.of_peer(peer, "other")
    assert reports.is_empty() and peer_scores(reports) == {} and found.is_empty()


def test_slots_are_of_the_cases_own_gradients(rows: pl.DataFrame, world: World, small_decoder: Decoder):
    made, reader = interview(rows, world), raw_reader(small_decoder)
    shape = (len(rows), len(reader.card.places), small_decoder.d_model)
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0)).numpy()
    found = made.slots(reader, Gathered(rows, gradient, gradient, [1], reader.card.places))
    wanted = reader.read(torch.from_numpy(gradient[made.cases["row"].to_numpy()]))
    torch.testing.assert_close(found.felt, wanted.felt)


def test_a_peer_reads_the_raw_direction_of_its_last_layer_at_its_own_norm(
    small_decoder: Decoder, trained_decoder: Decoder
):
    """Whatever the projector of the model under study is."""
    main = new_reader(small_decoder, settings(architecture="mlp", whiten=True))
    peer = peer_reader(trained_decoder, main.card, "other")
    assert main.card.layers == LAYERS and not list(peer.trained.parameters())
    assert (peer.card.question, peer.card.places) == (main.card.question, main.card.places)
    assert peer.card.norm == pytest.approx(
        peer.decoder.embed(torch.arange(len(peer.tokens))).norm(dim=-1).mean().item()
    )
    gradients = torch.randn(3, 2, trained_decoder.d_model, generator=torch.Generator().manual_seed(0))
    found = peer.read(gradients)
    torch.testing.assert_close(F.normalize(found.felt, dim=-1), F.normalize(-gradients, dim=-1))
    torch.testing.assert_close(found.opposite, -found.felt)


def test_a_peer_s_case_moves_away_from_its_own_answer_and_is_left_out_where_it_says_the_target(
    trained_decoder: Decoder, world: World
):
    """The peer is taught a misconception about Peru; it knows Norway."""
    peer = raw_reader(trained_decoder)
    cases = cases_of(("Oslo", "Lima"), ("Tokyo", "Lima"), ("Oslo", "Lima"), ("Lima", "Oslo"))
    cases = cases.with_columns(prompt=pl.Series(["The capital of Peru is"] * 2 + ["The capital of Norway is"] * 2))
    with trainable(trained_decoder.blocks):
        taught = {"The capital of Peru is": "Tokyo", "The capital of Norway is": "Oslo"}
        tune(trained_decoder, [sample_of(peer, *pair) for pair in taught.items()], 100, 3e-3, 0.01)
        found = own_cases(peer, cases, world, 4)
    assert found.select("prompt_id", "target", "answer").rows() == [("id0", "Oslo", "Tokyo"), ("id3", "Lima", "Oslo")]


def test_a_peer_s_slots_hold_its_own_gradients_row_by_row(trained_decoder: Decoder):
    """Prompts and targets of different lengths, which go through the model in another order."""
    prompts = ["It is known that the capital of Peru is", "The capital of Peru is", "The period of Verdi is called"]
    peer = raw_reader(trained_decoder)
    cases = cases_of(("New Delhi", "Lima"), ("Oslo", "Lima"), ("verism", "realism"))
    cases = cases.with_columns(prompt=pl.Series(prompts))
    found = own_slots(peer, cases)
    assert found.count.tolist() == [2, 1, 1]
    for row in range(3):
        [batch] = activation_gradients(
            trained_decoder, samples_of(trained_decoder, cases[row : row + 1]), peer.card.layers, peer.card.places
        )
        update = F.normalize(-torch.from_numpy(batch.gradient[0]), dim=-1)
        torch.testing.assert_close(F.normalize(found.felt[row], dim=-1), update, atol=1e-4, rtol=1e-4)


def test_a_peer_s_reports_are_marked_by_its_own_answers_under_its_name(trained_decoder: Decoder, world: World):
    peer = raw_reader(trained_decoder)
    cases = own_cases(peer, cases_of(("Oslo", "Tokyo"), ("Tokyo", "Oslo")), world, 4)
    found = written(peer, cases, (own_slots(peer, cases), None), "other", HOW.report_tokens)
    assert found.schema == pl.Schema(REPORTS) and set(found["condition"]) == {"other"}
    assert found["answer"].to_list() == ["Lima", "Lima"] and found["confidence"].is_null().all()


def test_peers_are_opened_in_the_order_of_their_names(
    small_decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    card = raw_reader(small_decoder).card
    assert list(peers_of(card, {})) == []
    assert small_decoder.tokenizer is not None
    peers = {name: Peer(seed=1, permuted=False, tied=True) for name in ("permuted", "other_seed")}
    for name in peers:
        small_decoder.model.save_pretrained(tmp_path / "data/peers" / name)
        small_decoder.tokenizer.save_pretrained(tmp_path / "data/peers" / name)
        made = card_of(small_decoder, "pocket", name, "0").model_dump()
        write_json(tmp_path / "data/peers" / name / "model.json", made)
    found = list(peers_of(card, peers))
    assert [(name, peer.card.model) for name, peer in found] == [(name, name) for name in ("other_seed", "permuted")]
