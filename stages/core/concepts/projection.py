"""Gradients in terms of a dictionary's features: the slope of the loss along each, and a few that make it up."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..run.errors import InputError
from .dictionary import Dictionary, random_directions

ROWS = 256
"""Gradients that are decomposed at once."""


@dataclass(frozen=True)
class Decomposition:
    """What makes up each vector.

    Attributes:
        features: those chosen, in that order.
        weights: what the chosen unit directions are multiplied by to make up the vector, all of them together.
        explained: the share of the vector's squared length that the first k of them make up, for each k.
    """

    features: Int[Tensor, "vector k"]
    weights: Float[Tensor, "vector k"]
    explained: Float[Tensor, "vector k"]

    def shares(self, count: int) -> Float[Tensor, " feature"]:
        """Of a batch or data set: the mean over its vectors of what each feature makes up of them, of `count` features.

        What a feature makes up is what choosing it has added.
        """
        added = torch.diff(self.explained, dim=1, prepend=torch.zeros(len(self.explained), 1))
        return torch.zeros(count).index_add(0, self.features.flatten(), added.flatten()) / max(len(added), 1)


def slopes(dictionary: Dictionary, gradients: Float[Tensor, "row d_model"]) -> Float[Tensor, "row feature"]:
    """dL/df of each feature, nats for each unit of its activation: the gradient times its direction."""
    return gradients @ dictionary.directions.T


def toward(dictionary: Dictionary, updates: Float[Tensor, "row d_model"]) -> Int[Tensor, " row"]:
    """The feature whose unit direction each update direction (minus the gradient) goes along most."""
    return (updates @ dictionary.unit.T).argmax(-1)


def decomposed(dictionary: Dictionary, vectors: Float[Tensor, "row d_model"], most: int) -> Decomposition:
    """Orthogonal matching pursuit (Pati et al. 1993): one feature after another that what is left goes along most.

    Either way along: a feature can be made weaker. After each choice all weights are fitted anew.

    Raises:
        InputError: a vector is of another width than the dictionary's, or zero.
    """
    if vectors.shape[1:] != dictionary.directions.shape[1:] or not vectors.any(1).all():
        wanted = dictionary.directions.shape[1]
        raise InputError(f"decomposition: found vectors of {vectors.shape[1]} or zeros, wanted {wanted} and none zero")
    most = min(most, len(dictionary.directions), vectors.shape[1])
    parts = [_pursued(dictionary.unit, part, most) for part in vectors.split(ROWS)]
    return Decomposition(*(torch.cat(each) for each in zip(*parts, strict=True)))


def made_of(dictionary: Dictionary, update: Float[Tensor, " d_model"], most: int) -> dict[str, Any]:
    """The features that make up an update direction, the first that is chosen first; see `decomposed`.

    Returns:
        The dictionary's `kind` and `layer`; `features`, of each its number and names, whether the update makes it
        `stronger`, and what choosing it adds to the `explained` share of the squared length; that share of all of them,
        and of as many out of the same number of `random` directions.
    """
    found = decomposed(dictionary, update[None], most)
    drawn = random_directions(0, dictionary.layer, *dictionary.directions.shape)
    floor = decomposed(replace(dictionary, directions=drawn), update[None], most)
    added = torch.diff(found.explained[0], prepend=torch.zeros(1))
    return {
        "kind": dictionary.kind,
        "layer": dictionary.layer,
        "features": [
            {
                "feature": at,
                "names": ", ".join(" ".join(name) for name in dictionary.names[at].items()) if dictionary.names else "",
                "stronger": by > 0,
                "explained": share,
            }
            for at, by, share in zip(found.features[0].tolist(), found.weights[0].tolist(), added.tolist(), strict=True)
        ],
        "explained": float(found.explained[0, -1]),
        "random": float(floor.explained[0, -1]),
    }


def _pursued(
    directions: Float[Tensor, "feature d_model"], vectors: Float[Tensor, "row d_model"], most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weights and shares explained. What was chosen is kept as an orthonormal basis of each row."""
    left, basis = vectors.clone(), vectors.new_zeros(len(vectors), 0, vectors.shape[1])
    features, explained = [], []
    for _ in range(most):
        features.append((left @ directions.T).abs().argmax(-1))
        new = directions[features[-1]]
        for _ in range(2):  # once more, against rounding
            new = new - ((basis @ new[..., None]).mT @ basis)[:, 0]
        new = torch.nn.functional.normalize(new, dim=-1)
        basis = torch.cat([basis, new[:, None]], 1)
        left = left - (left * new).sum(-1, keepdim=True) * new
        explained.append(1 - left.square().sum(-1) / vectors.square().sum(-1))
    chosen = torch.stack(features, 1)
    weights = torch.linalg.lstsq(directions[chosen].mT, vectors[..., None], driver="gelsd").solution[..., 0]
    return chosen, weights, torch.stack(explained, 1)
