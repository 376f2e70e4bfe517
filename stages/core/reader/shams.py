"""Shams: vectors that are the gradient of nothing, to teach and to test abstention.

Each takes a generator, a gradient [layer, d_model] and, where it needs them, statistics of all gradients. Norms are
those of the gradient at each layer (zero excepted), so that strength gives nothing away. What is tested is of other
kinds than what is trained on.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, "layer d_model"]
Sham = Callable[[np.random.Generator, Vector], Vector]


def normed(
    values: Float[np.ndarray, "*row layer d_model"], like: Float[np.ndarray, "*row layer d_model"]
) -> Float[np.ndarray, "*row layer d_model"]:
    """`values` with the norm of `like` at each layer; zero stays zero."""
    norms = np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
    return (values / norms * np.linalg.norm(like, axis=-1, keepdims=True)).astype(np.float32)


def zero(rng: np.random.Generator, like: Vector) -> Vector:
    """Nothing."""
    return np.zeros_like(like)


def gaussian(rng: np.random.Generator, like: Vector) -> Vector:
    """A random direction."""
    return normed(rng.standard_normal(like.shape), like)


def permuted(rng: np.random.Generator, like: Vector) -> Vector:
    """The gradient's own numbers at other coordinates."""
    return like[:, rng.permutation(like.shape[-1])]


def scrambled_signs(rng: np.random.Generator, like: Vector) -> Vector:
    """The gradient's own sizes, each with a random sign."""
    return (like * rng.choice([-1, 1], like.shape)).astype(np.float32)


def sparse(rng: np.random.Generator, like: Vector) -> Vector:
    """A random direction with 15 of 16 coordinates zero."""
    noise = rng.standard_normal(like.shape)
    noise[:, rng.permutation(like.shape[-1])[: like.shape[-1] * 15 // 16]] = 0
    return normed(noise, like)


def wave(rng: np.random.Generator, like: Vector) -> Vector:
    """A cosine along the coordinates, of random frequency and phase."""
    at = np.arange(like.shape[-1])
    frequency, phase = rng.uniform(0.05, 3.0, (len(like), 1)), rng.uniform(0, 2 * np.pi, (len(like), 1))
    return normed(np.cos(frequency * at + phase), like)


TRAINED: Mapping[str, Sham] = {"zero": zero, "gaussian": gaussian, "permuted": permuted}
TESTED: Mapping[str, Sham] = {"scrambled_signs": scrambled_signs, "sparse": sparse, "wave": wave}


def draw_sham(kinds: Mapping[str, Sham], rng: np.random.Generator, like: Vector) -> Vector:
    """A sham of one of the kinds, drawn evenly."""
    names = list(kinds)
    return kinds[names[rng.integers(len(names))]](rng, like)


class Normal:
    """The normal distribution with the mean and covariance of some gradients, all layers together.

    Its vectors are a kind of sham that is only tested on.
    """

    def __init__(self, blocks: Iterable[Float[np.ndarray, "_ layer d_model"]]) -> None:
        """`blocks`: the gradients, some rows at a time; added up in float64."""
        rows, total, products = 0, np.zeros(()), np.zeros(())
        for block in blocks:
            flat = block.reshape(len(block), -1).astype(np.float64)
            rows, total, products = rows + len(flat), total + flat.sum(0), products + flat.T @ flat
        self.mean = total / rows
        variances, axes = np.linalg.eigh(products / rows - np.outer(self.mean, self.mean))
        self.factor = axes * np.sqrt(variances.clip(0))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Vector:
        """A vector [layer, d_model] of the distribution."""
        return (self.mean + self.factor @ rng.standard_normal(len(self.mean))).reshape(shape).astype(np.float32)

    def covariance_matched(self, rng: np.random.Generator, like: Vector) -> Vector:
        """A vector of the distribution, at the norm of `like` at each layer."""
        return normed(self.draw(rng, like.shape), like)
