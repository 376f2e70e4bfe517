"""Words in place of corrections: what the vectors hold, which words they are of, and that a map learns from them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stages.core.model.decoder import Decoder
from stages.core.reader.lessons import SHARES, Words
from stages.core.reader.reader import Reader
from stages.core.reader.reports import answer_losses
from stages.core.reader.training import report_loss, train
from stages.core.reader.vocabulary import final_gain
from tests.core.reader.teaching import LAYERS, PLACES, held_rows, new_reader, prompts, settings

QUIET = lambda steps: None  # noqa: E731
HOSTS = {"geography": ["The capital of Peru is"], "music": ["The composer of Tosca is"]}
NAMES = ("Lima", "Oslo", "Puccini")


def words(reader: Reader, **changes: object) -> Words:
    return Words(reader, NAMES, HOSTS, settings(learns_from="words", **changes))


def test_a_gradient_moves_toward_the_word_of_its_report_and_away_from_another(small_decoder: Decoder):
    found = words(new_reader(small_decoder, settings()))
    draws = found.draw("train", 0, 64, 0)
    assert draws.gradients.shape == (64, len(PLACES) * len(LAYERS), small_decoder.d_model)
    moved = -draws.gradients.unflatten(1, (len(PLACES), len(LAYERS)))
    assert torch.equal(moved[:, :, 0], moved[:, :, 1])  # the same at every layer
    directions = found.moved(range(len(found.directions)))
    turned = 0
    for row, (report, names) in enumerate(zip(draws.reports, draws.names, strict=True)):
        assert names is not None and report == f"toward {names[0]}"
        ids = small_decoder.continuation(names[0])
        for place, token in enumerate(ids):
            other = small_decoder.continuation(names[1])[place]
            to, away = directions[token], directions[other]
            rest = moved[row, place, 0] - to
            share = float(-(rest @ away))
            noise = rest + share * away
            assert (SHARES[0] - 0.5 < share < 1 / SHARES[0] + 0.5 and noise.norm() < 1.3) or token == other
            turned += share > 1.2
        assert (moved[row, len(ids) :] == 0).all() and (moved[row, : len(ids)] != 0).any(-1).all()
    assert turned and {len(small_decoder.continuation(names[0])) for names in draws.names if names} == {1, 2}


def test_no_token_of_a_name_is_drawn_and_a_batch_is_always_the_same(small_decoder: Decoder):
    found = words(new_reader(small_decoder, settings()))
    assert not {token for name in NAMES for token in small_decoder.continuation(name)} & set(found.tokens)
    assert all(small_decoder.text([token]).isalpha() for token in found.tokens)
    later, _ = found.draw("train", 3, 8, 0), found.draw("train", 0, 8, 0)
    again, other = found.draw("train", 3, 8, 0), found.draw("validation", 3, 8, 0)
    assert torch.equal(again.gradients, later.gradients)
    assert (again.reports, again.hosts) == (later.reports, later.hosts) and other.reports != later.reports
    assert set(found.draw("train", 0, 64, 0).hosts) == {None, *HOSTS["geography"], *HOSTS["music"]}


def test_without_words_beside_the_names_it_is_said(small_decoder: Decoder):
    every = small_decoder.tokenizer.get_vocab()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"params.yaml: projector.learns_from: found 0 words .* use labels"):
        Words(new_reader(small_decoder, settings()), every, HOSTS, settings())


def test_the_beginning_of_a_report_has_no_end_to_learn(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings())
    drawn = words(reader).draw("train", 0, 4, 0)
    slots = reader.read(drawn.gradients)
    whole = ["no pressure"] * 4
    for reports, ends in ((drawn.reports, []), (whole, [min(small_decoder.eos_ids())])):
        answers = [[*small_decoder.continuation(text), *ends] for text in reports]
        wanted = answer_losses(reader, prompts(reader, drawn.hosts, slots), answers, slots)[0].mean()
        draws = replace(drawn, reports=reports, whole=reports is whole)
        assert report_loss(reader, draws, slots) == wanted


@pytest.mark.parametrize("norm", [nn.RMSNorm(32), nn.LayerNorm(32)])
def test_the_gain_is_the_final_norm_s_weight(norm: nn.Module, small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    for value in norm.parameters():
        nn.init.normal_(value)
    monkeypatch.setattr(small_decoder, "norm", norm)
    assert torch.allclose(final_gain(small_decoder), norm.weight, atol=1e-4)  # type: ignore[arg-type]


def test_a_map_learned_on_words_turns_names_that_it_never_had_into_themselves(trained_decoder: Decoder, tmp_path: Path):
    """The pocket model's head is its embedding: what has to be learned is to leave directions as they are."""
    wanted = settings(
        architecture="linear", learns_from="words", layers=[trained_decoder.n_layers - 1], steps=400, batch=32,
        slot_loss=1.0, learning_rate=0.01, validate_every=50, patience=9,
    )  # fmt: skip
    reader = new_reader(trained_decoder, wanted)
    lessons = Words(reader, NAMES, HOSTS, wanted)
    train(reader, lessons, held_rows(lessons), wanted, tmp_path / "state.pt", QUIET)
    ids = torch.tensor([trained_decoder.continuation(name)[0] for name in NAMES])
    gradients = torch.zeros(len(NAMES), len(PLACES), trained_decoder.d_model)
    gradients[:, 0] = -lessons.moved(ids.tolist())
    with torch.no_grad():
        felt = F.normalize(reader.read(gradients).felt[:, 0], dim=-1)
    assert (felt @ lessons.moved(range(len(lessons.directions))).T).argmax(-1).tolist() == ids.tolist()
