"""Kinds of update: one vector up to a number where it must be, of the sign that is asked, and told apart by no less."""

import numpy as np
import polars as pl
import pytest
import torch

from stages.core.data.grammar import report
from stages.core.data.updates import KINDS
from stages.core.evaluate import kinds
from stages.core.evaluate.asking import own_gradients
from stages.core.evaluate.cases import Questions
from stages.core.evaluate.kinds import ASKED, EVERYWHERE, LEAST, MEASURED, MOST, logits, said_scores, same_scores, told
from stages.core.model.decoder import Decoder
from stages.core.reader.injection import Slots
from stages.core.reader.reader import Reader
from tests.core.evaluate.small import HOW, cases_of, raw_reader

Told = tuple[pl.DataFrame, dict[str, np.ndarray]]
PAIRS = [("Oslo", "Lima"), ("Tokyo", "Lima"), ("Quito", "Lima"), ("Verdi", "Lima")]


@pytest.fixture(scope="module")
def small(trained_decoder: Decoder) -> Told:
    return told(raw_reader(trained_decoder), cases_of(*PAIRS), HOW)


def test_every_kind_of_the_audit_is_asked_about():
    assert {kind.name for kind in ASKED.values()} == set(KINDS)


def test_a_reward_s_gradient_is_the_correction_s_times_its_advantage(small: Told):
    rows, vectors = small
    size = rows.filter(update="explored")["advantage"].to_numpy()[:, None, None]
    assert ((size >= LEAST) & (size <= MOST)).all() and len(set(size.ravel())) == len(PAIRS)
    np.testing.assert_allclose(vectors["explored"], size * vectors["corrected"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(vectors["penalised"], -vectors["reinforced"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(vectors["penalised"], size * vectors["unlearned"], rtol=1e-4, atol=1e-7)
    assert same_scores(rows, rows, vectors)["cosine"] > 0.9999


def test_a_preference_to_the_model_itself_pushes_with_half_of_beta(small: Told):
    """Then it prefers neither: s(0) = 1/2. The place behind the prompt has the chosen completion's part alone."""
    _, vectors = small
    wanted = 0.05 * (vectors["corrected"][:, 0] - vectors["unlearned"][:, 0] * -1)
    np.testing.assert_allclose(vectors["preferred_to_own"][:, 0], wanted, rtol=1e-3, atol=1e-6)


def test_what_is_right_depends_on_what_is_pushed(trained_decoder: Decoder, small: Told):
    rows, vectors = small
    named = rows.with_columns(moved_to=pl.col("completion"), moved_from=pl.lit("Lima"), pressure=pl.lit(True),
                              malformed=pl.lit(False), names_toward=pl.lit(True))  # fmt: skip
    found = said_scores(raw_reader(trained_decoder), named, vectors, HOW)
    assert set(found) == set(ASKED)
    assert found["corrected"]["toward"].value == found["corrected"]["away"].value == 1
    assert "away" not in found["reinforced"] and "toward" not in found["penalised"]
    assert found["penalised"]["follows"].value < 1  # the answer itself, named as what comes in its place
    silent = named.with_columns(moved_to=pl.lit(""))
    assert said_scores(raw_reader(trained_decoder), silent, vectors, HOW)["unlearned"]["follows"].value == 1


def test_a_sentence_and_a_word_after_several_prompts_are_scored_by_what_they_teach(
    trained_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
):
    reader = raw_reader(trained_decoder)
    prompts = [f"The capital of {country} is" for country in ("Peru", "Norway", "Japan", "Ecuador", "Peru", "Norway")]
    cases = cases_of(*PAIRS, *PAIRS[:2]).with_columns(prompt=pl.Series(prompts))
    words = cases.with_columns(target=pl.Series(["Tokyo", "Oslo"] * 3))
    taught, read = [], []

    def gradients(reader: Reader, rows: pl.DataFrame) -> np.ndarray:
        taught.append((rows, own_gradients(reader, rows)))
        return taught[-1][1]

    def said(reader: Reader, slots: Slots, *_: object) -> list[str]:
        read.append(slots.felt)
        return [report("geography", "Oslo", "Lima")] * len(slots)

    monkeypatch.setattr(kinds, "own_gradients", gradients)
    monkeypatch.setattr(kinds, "longest_names", said)
    questions = Questions.__new__(Questions)
    for name, value in {"settings": HOW, "foreign_host": lambda: cases, "any_word": lambda: words}.items():
        monkeypatch.setattr(questions, name, value, raising=False)
    found = kinds.behaviour_scores(reader, questions)
    (same, parts), (sentences, _) = taught
    assert len(same) == EVERYWHERE == same["prompt"].n_unique() and same["target"].n_unique() == 1
    torch.testing.assert_close(read[1], reader.read(torch.from_numpy(parts.sum(0, keepdims=True))).felt)
    assert sentences["target"][0] == "Oslo . The capital of Peru is Oslo"
    assert found["everywhere"]["reports"] == 1 and found["everywhere"]["lens"].value == 1
    assert found["everywhere"]["toward"].value == (same["target"][0] == "Oslo")
    assert found["continued"]["reports"] == 6 and found["continued"]["lens"].value > 0.8
    assert found["continued"]["toward"].value == 1 / 3 and found["continued"]["away"].value == 1
    assert set(found["everywhere"]) == {"reports", "toward", "lens"}  # nothing that all prompts say is replaced
    monkeypatch.setattr(questions, "any_word", lambda: words[: EVERYWHERE - 1])
    assert set(kinds.behaviour_scores(reader, questions)) == {"continued"}  # too few prompts for one behaviour


def test_a_probe_tells_what_differs_and_nothing_else():
    draw = np.random.default_rng(0)
    said = pl.Series(["reinforced", "penalised"] * 50)
    table = pl.DataFrame({name: draw.normal(size=100) for name in MEASURED})
    both = table.with_columns(along=pl.Series(np.where(said == "reinforced", 1.0, -1.0)))
    among = [list(ASKED).index(name) for name in ("reinforced", "penalised")]
    right = np.where(said == "reinforced", 0, 1)
    assert (logits(both, said, both)[:, among].argmax(1) == right).all()
    unseen = pl.DataFrame({name: draw.normal(size=100) for name in MEASURED})
    assert 0.3 < (logits(table, said, unseen)[:, among].argmax(1) == right).mean() < 0.7
