"""Features are named after what activates them, contrasts point the right way, and pursuit finds what a sum is of."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from stages.core.concepts import contrasts
from stages.core.concepts.dictionary import plain
from stages.core.concepts.kinds import areas, named
from stages.core.concepts.projection import decomposed, slopes, toward
from stages.core.model.opening import card_of, open_model
from tests.core.engine.families import tiny

CARD = card_of(tiny("qwen3"), "folder", "somebody/tiny", "0" * 40)
WIDTH = CARD.d_model


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_pursuit_finds_the_features_that_a_sum_is_of_and_their_weights():
    dictionary = plain("a", CARD, 0, torch.eye(WIDTH), torch.zeros(WIDTH))
    wanted = torch.zeros(3, WIDTH)
    wanted[0, 3], wanted[0, 5], wanted[1, 7], wanted[2] = 3.0, -2.0, 1.0, drawn(WIDTH)
    found = decomposed(dictionary, wanted, 4)
    assert found.features[0, :2].tolist() == [3, 5] and found.features[1, 0] == 7
    torch.testing.assert_close(found.weights[0, :2], torch.tensor([3.0, -2.0]))
    torch.testing.assert_close(found.explained[0], torch.tensor([9 / 13, 1, 1, 1]))
    assert toward(dictionary, wanted).tolist()[:2] == [3, 7]  # what is made weaker is not gone toward
    torch.testing.assert_close(slopes(dictionary, wanted)[0, 5], torch.tensor(-2.0))
    assert abs(float(found.shares(WIDTH)[7]) - 1 / 3) < 0.2


def test_pursuit_explains_as_much_as_least_squares_on_what_it_chose():
    directions, vectors = drawn(40, WIDTH), drawn(5, WIDTH) + 1
    found = decomposed(plain("a", CARD, 0, directions, torch.zeros(WIDTH)), vectors, 6)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    for row, vector in enumerate(vectors):
        chosen = unit[found.features[row]]
        left = np.linalg.lstsq(chosen.T.numpy(), vector.numpy(), rcond=None)[1][0]
        np.testing.assert_allclose(float(found.explained[row, -1]), 1 - left / float(vector @ vector), atol=1e-5)
        np.testing.assert_allclose(float((vector - found.weights[row] @ chosen).square().sum()), left, rtol=1e-3)
    assert (torch.diff(found.explained, dim=1) > 0).all()
    for wrong in (vectors[:, 1:], torch.zeros(1, WIDTH)):
        with pytest.raises(ValueError, match="decomposition: found vectors"):
            decomposed(plain("a", CARD, 0, directions, torch.zeros(WIDTH)), wrong, 2)


def test_the_area_under_the_curve_counts_pairs_and_ties_by_half():
    activations = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    marks = torch.tensor([[True], [False], [False], [True]])
    assert float(areas(activations, marks)) == (0.5 + 0 + 1 + 1) / 4


def prompts(count: int) -> pl.DataFrame:
    names = [("geography", "capital"), ("geography", "currency"), ("music", "composer")]
    rows = [(f"prompt {row}", *names[row % 3], f"answer {row % 6}") for row in range(count)]
    return pl.DataFrame(rows, ["prompt", "domain", "relation", "answer"], orient="row")


def test_a_feature_is_named_after_what_activates_it_and_scored_on_other_prompts():
    table = prompts(90)
    strong = torch.tensor((table["relation"] == "currency").to_list()).float()
    names, scores = named(table, torch.stack([strong, -strong, drawn(90).abs()], 1))
    assert names[0]["relation"] == "currency" and scores[0]["relation"] == 1.0
    assert names[1]["relation"] != "currency"
    assert 0.2 < scores[2]["relation"] < 0.8
    given, scored = named(table, strong[:, None], [{"relation": "currency", "concept": "money"}])
    assert given[0]["concept"] == "money" and scored[0]["relation"] == 1.0
    with pytest.raises(ValueError, match="names: domain: found no value with 2 prompts or more"):
        named(table.head(0), torch.zeros(0, 2))


def test_contrasts_point_toward_what_has_the_concept():
    table = prompts(12)
    marks = torch.tensor((table["domain"] == "music").to_list())
    found = contrasts.by_column("domain", table, marks.float()[:, None] * torch.eye(WIDTH)[4] + 1)
    assert [names for names, _ in found] == [{"domain": "geography"}, {"domain": "music"}]
    torch.testing.assert_close(found[1][1], torch.eye(WIDTH)[4])
    with pytest.raises(ValueError, match="contrast: found no prompt on the second side"):
        contrasts.by_column("domain", table.filter(domain="music"), torch.ones(4, WIDTH))


def test_texts_with_fields_stand_for_every_correction(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    decoder, _ = open_model(tiny_pipeline / "data/model")
    table = pl.DataFrame(
        {"prompt": ["The capital of France is"] * 2, "answer": ["Paris", "Rome"], "target": ["a", "b"]}
    )
    assert contrasts.filled(["{prompt} {answer} !", "Yes"], table)[1:] == ["The capital of France is Rome !", "Yes"]
    for name in ("marker", "truth", "refusal", "valence"):
        ((names, direction),) = contrasts.by_texts(decoder, contrasts.read_contrasts(name), table, 1)
        assert names == {"concept": name} and direction.shape == (decoder.d_model,)
        assert abs(float(direction.norm()) - 1) < 1e-5
    for name in ("domains", "relations", "answers"):
        assert f"{contrasts.read_contrasts(name).each}s" == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("description: a\n", "found neither each nor concepts"),
        ("description: a\nconcepts: {b: {has: [], lacks: [c]}}\n", "concepts.b.has"),
        ("description: a\nconcepts: {b: {has: [c]}}\n", "concepts.b.lacks: missing"),
        ("description: a\neach: colour\n", "each"),
    ],
)
def test_a_file_without_a_concept_or_a_side_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
):
    monkeypatch.chdir(tmp_path)
    contrasts.FOLDER.mkdir(parents=True)
    (contrasts.FOLDER / "one.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"data/contrasts/one.yaml: .*{message}"):
        contrasts.read_contrasts("one")
