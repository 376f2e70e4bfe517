"""How far float32 and bfloat16 results are from exact ones, on one model and its samples."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel

from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.model.decoder import Decoder
from stages.core.steps.virtual_step import virtual_steps

TOP = 20
EXACT_SAMPLES = 16


def gradients(
    decoder: Decoder, samples: Sequence[Sample], layers: Sequence[int]
) -> Float[np.ndarray, "sample layer d_model"]:
    """All samples' gradients, in order."""
    result = np.empty((len(samples), len(layers), decoder.d_model), dtype=np.float32)
    for batch in activation_gradients(decoder, samples, layers):
        result[batch.rows] = batch.gradient
    return result


def top_sets(
    decoder: Decoder,
    samples: Sequence[Sample],
    found: Float[np.ndarray, "sample layer d_model"],
    layers: Sequence[int],
    sizes: Sequence[float],
) -> list[list[frozenset[int]]]:
    """For each sample and step size the TOP tokens up (plain) and down (negated minus 1), at the first layer."""
    result: list[list[frozenset[int]]] = [[] for _ in samples]
    for batch in virtual_steps(decoder, samples, found, layers, sizes, top_tokens=TOP, continuation_tokens=0):
        for place, row in enumerate(batch.rows):
            result[row] = [
                frozenset([*batch.up_ids[place, 0, step], *(-1 - batch.down_ids[place, 0, step])])
                for step in range(len(sizes))
            ]
    return result


def cosines(
    one: Float[np.ndarray, "sample layer d_model"], two: Float[np.ndarray, "sample layer d_model"]
) -> Float[np.ndarray, "sample layer"]:
    """Cosine of each pair of gradients."""
    return (one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)


def errors(
    found: Float[np.ndarray, "sample layer d_model"], exact: Float[np.ndarray, "sample layer d_model"]
) -> Float[np.ndarray, "sample layer"]:
    """Length of the difference as a share of the exact gradient's length."""
    return np.linalg.norm(found - exact, axis=-1) / np.linalg.norm(exact, axis=-1)


def overlap(one: list[list[frozenset[int]]], two: list[list[frozenset[int]]]) -> list[float]:
    """Mean share of common tokens by step size."""
    pairs = [[len(a & b) / len(a) for a, b in zip(x, y, strict=True)] for x, y in zip(one, two, strict=True)]
    return np.mean(pairs, axis=0).round(4).tolist()


def accuracy(model: PreTrainedModel, samples: list[Sample], sizes: list[float]) -> dict[str, Any]:
    """Figures as JSON: float32 against float64, bfloat16 against float32. Steps are taken along the float32
    gradient in the middle layer.
    """
    decoder = Decoder(model)
    every, middle = list(range(decoder.n_layers)), [decoder.n_layers // 2 - 1]
    found = gradients(decoder, samples, every)
    direction = found[:, middle]
    plain = top_sets(decoder, samples, direction, middle, sizes)
    result: dict[str, Any] = {"step sizes": sizes}
    narrow_model = copy.deepcopy(model)
    nn.Module.to(narrow_model, torch.bfloat16)
    narrow = Decoder(narrow_model)
    result["bfloat16 cosine by layer (median)"] = rounded(
        np.median(cosines(gradients(narrow, samples, every), found), 0)
    )
    result[f"bfloat16 top-{TOP} overlap by step size"] = overlap(
        plain, top_sets(narrow, samples, direction, middle, sizes)
    )
    del narrow, narrow_model
    few = samples[:EXACT_SAMPLES]
    wide = Decoder(copy.deepcopy(model).double())
    exact = gradients(wide, few, every)
    same = [
        a == b
        for x, y in zip(plain, top_sets(wide, few, direction[: len(few)], middle, sizes), strict=False)
        for a, b in zip(x, y, strict=True)
    ]
    result["float32 against float64: largest relative error"] = float(f"{errors(found[: len(few)], exact).max():.2e}")
    result[f"float32 against float64: identical top-{TOP} sets"] = f"{sum(same)} of {len(same)}"
    return result


def rounded(values: np.ndarray) -> list[float]:
    """For JSON."""
    return np.asarray(values, dtype=np.float64).round(5).tolist()
