"""What the projector is held against, on gradients whose content is known."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from stages.core.evaluate.baselines import lens, nearest, nearest_entities, probe
from stages.core.evaluate.conditions import lens_tokens
from stages.core.model.decoder import Decoder
from tests.core.evaluate.small import raw_reader, slots_of
from tests.core.reader.teaching import new_reader, settings

EVERY = np.arange(200)


def planted(seed: int, count: int) -> tuple[np.ndarray, list[str]]:
    """Gradients of three kinds, of every size, each kind a direction with noise."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((3, 2, 8))
    kinds = rng.integers(3, size=count)
    sizes = np.exp(rng.uniform(-4, 4, (count, 1, 1)))
    values = (centres[kinds] + 0.3 * rng.standard_normal((count, 2, 8))) * sizes
    return values.astype(np.float32), [f"kind {kind}" for kind in kinds]


def test_the_probe_finds_what_is_linear_whatever_the_norm_and_is_the_same_again():
    train, labels = planted(1, 200)
    test, wanted = planted(2, 100)
    shuffled = np.random.default_rng(3).permutation(labels).tolist()
    table = pl.DataFrame({"true": labels, "shuffled": shuffled})
    found = probe(train, EVERY, table, test, 0)
    assert found.equals(probe(train, EVERY, table, test, 0))
    assert np.mean(found["true"].to_numpy() == wanted) > 0.95 and np.mean(found["shuffled"].to_numpy() == wanted) < 0.6


def test_a_probe_says_the_same_whatever_else_is_probed():
    train, labels = planted(1, 200)
    test, _ = planted(2, 100)
    table = pl.DataFrame({"kind": labels, "other": [f"{row % 7}" for row in range(200)]})
    both = probe(train, EVERY, table, test, 0)
    assert both["kind"].equals(probe(train, EVERY, table.select("kind"), test, 0)["kind"])


def test_the_nearest_gradient_is_of_the_same_kind():
    train, labels = planted(1, 200)
    test, wanted = planted(2, 100)
    assert np.mean(np.array(labels)[nearest(train, EVERY, test)] == wanted) > 0.95
    assert nearest(train, EVERY, 7 * train).tolist() == list(range(200))


def test_the_lens_reads_a_direction_made_of_unembeddings(small_decoder: Decoder):
    lexicon = {"Lima": "geography", "Oslo": "geography", "Verdi": "music", "Bizet": "music"}
    assert lens(small_decoder, toward(small_decoder, "Verdi", "Oslo")[:, 1], lexicon).rows() == [
        ("music", "Verdi", "Oslo")
    ]


def test_the_reader_of_lens_tokens_gets_the_two_tokens_that_move_most(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings())
    found, _ = lens_tokens(reader, toward(small_decoder, "Verdi", "Oslo"))
    wanted = [reader.tokens[small_decoder.continuation(word)[0]] for word in ("Verdi", "Oslo")]
    torch.testing.assert_close(torch.cat([found.felt, found.opposite]), torch.stack(wanted)[:, None])
    assert found.count.tolist() == [1]


NAMES = {"Salvador": "geography", "San Salvador": "geography", "San José": "geography", "Oslo": "geography",
         "San José Lima": "music", "Richard Strauss": "music", "Richard Wagner": "music", "Verdi": "music"}  # fmt: skip


@pytest.mark.parametrize("to", NAMES)
def test_the_nearest_entity_is_named_by_the_tokens_at_all_its_places(small_decoder: Decoder, to: str):
    """Names of one to three tokens, some of them the beginning or the end of others."""
    reader = raw_reader(small_decoder)
    slots = slots_of(reader, (to, "Tokyo"), places=3)
    noise = 0.1 * torch.randn(slots.felt.shape, generator=torch.Generator().manual_seed(0))
    found = nearest_entities(reader, replace(slots, felt=slots.felt + noise), NAMES | {"Tokyo": "geography"})
    assert found.select("domain", "moved_to").rows() == [(NAMES[to], to)]


def test_the_entity_moved_from_is_named_by_its_first_token_alone(small_decoder: Decoder):
    """The gradient at the first place knows no more: of names that share it the first is named."""
    reader = raw_reader(small_decoder)
    pairs = [("Verdi", "Oslo"), ("San Salvador", "Verdi"), ("Verdi", "Richard Wagner"), ("Verdi", "San José")]
    found = nearest_entities(reader, slots_of(reader, *pairs), NAMES)
    assert found["moved_from"].to_list() == ["Oslo", "Verdi", "Richard Strauss", "San Salvador"]


def test_slots_of_different_lengths_are_read_row_by_row(small_decoder: Decoder):
    reader, pairs = raw_reader(small_decoder), [("Verdi", "Oslo"), ("San Salvador", "Verdi"), ("Salvador", "Oslo")]
    found = nearest_entities(reader, slots_of(reader, *pairs), NAMES)
    assert found["moved_to"].to_list() == ["Verdi", "San Salvador", "Salvador"]
    assert found[1:2].equals(nearest_entities(reader, slots_of(reader, pairs[1]), NAMES))


def toward(small_decoder: Decoder, to: str, away: str) -> np.ndarray:
    """A gradient whose second layer's update direction, unembedded, is the first word's token less the second's."""
    head = dict(small_decoder.head.named_parameters())["weight"].detach()
    up, down = (head[small_decoder.continuation(name)[0]] for name in (to, away))
    update = (up - down) / dict(small_decoder.norm.named_parameters())["weight"].detach()
    gradient = np.zeros((1, 2, small_decoder.d_model), dtype=np.float32)
    gradient[0, 1] = -update.numpy()
    return gradient
