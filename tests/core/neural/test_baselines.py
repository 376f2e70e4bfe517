"""What the projector is held against, on gradients whose content is known."""

import numpy as np

from stages.core.neural.baselines import lens, nearest, probe
from stages.core.neural.decoder import Decoder


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
    assert probe(train, labels, test, 0) == probe(train, labels, test, 0)
    assert np.mean(np.array(probe(train, labels, test, 0)) == wanted) > 0.95
    shuffled = np.random.default_rng(3).permutation(labels).tolist()
    assert np.mean(np.array(probe(train, shuffled, test, 0)) == wanted) < 0.6


def test_the_nearest_gradient_is_of_the_same_kind():
    train, labels = planted(1, 200)
    test, wanted = planted(2, 100)
    assert np.mean(np.array(labels)[nearest(train, test)] == wanted) > 0.95
    assert nearest(train, 7 * train).tolist() == list(range(200))


def test_the_lens_reads_a_direction_made_of_unembeddings(small_decoder: Decoder):
    lexicon = {"Lima": "geography", "Oslo": "geography", "Verdi": "music", "Bizet": "music"}
    head = dict(small_decoder.head.named_parameters())["weight"].detach()
    to, away = (head[small_decoder.continuation(name)[0]] for name in ("Verdi", "Oslo"))
    update = (to - away) / dict(small_decoder.norm.named_parameters())["weight"].detach()
    gradient = np.zeros((1, 2, small_decoder.d_model), dtype=np.float32)
    gradient[0, 1] = -update.numpy()
    assert lens(small_decoder, gradient, lexicon).rows() == [("music", "Verdi", "Oslo")]
