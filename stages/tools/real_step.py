"""Compares the virtual step with a real one: an optimiser's step on the weights, in memory, a correction at a time.

A stage of stages/sweeps/dvc.yaml: `make real-step` runs it. Reads data/model/ and, of all domains, data/prompts. Writes
metrics.json and curve.csv to data/real_step/. Params: domains. A GPU is used if there is one; seconds with the pocket
model. Memory: four times the weights.

A real step lowers the loss by moving all weights against their gradient (SGD, or Adam's first step); a virtual one
moves the residual stream at one place. Both shift the next-token distribution after the prompt. Of the tokens that the
real step shifts most, up and down, the curve gives the correlation (Pearson) of both shifts and the share of equal
signs, by optimiser, size of the real step (|change of the weights| / |weights|), layer and virtual step size, and the
same for the virtual step of another correction: chance. The metrics say in which range they agree, and put the
finite-difference slope of the loss along the update direction beside -|g|.

  python -m stages.tools.real_step --samples 32
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn.utils import get_total_norm

from ..core.data.tables import PROMPTS, ROW, read_table
from ..core.engine.gradients import activation_gradients
from ..core.engine.samples import Sample, naming_prompts, samples_of
from ..core.evaluate.cases import by_hash
from ..core.evaluate.fine_tuning import sample_loss, trainable
from ..core.model.changes import speaker
from ..core.model.decoder import Decoder, residual, with_residual
from ..core.model.opening import open_model
from ..core.run.errors import InputError
from ..core.run.files import replacing, write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.stage import parser, progress, run
from ..core.steps.shifts import named_tokens
from ..core.steps.virtual_step import virtual_steps

FOLDER = Path("data/real_step")
UPDATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""Sizes of the real step, |change of the weights| / |weights|."""
STEP_SIZES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Virtual step sizes, fractions of the residual norm."""
TOP = 20
"""Tokens of the real shift that count, up and down each."""
LAYERS = 8
"""Most layers that are looked at, the last block always among them."""
AGREES = {"correlation": 0.5, "sign_agreement": 0.8}
"""Means over the sample from which on the virtual step is said to agree."""
NUDGE = 3e-3
"""Half of the finite difference's step, as a fraction of the residual norm."""
SCORES = ("correlation", "sign_agreement", "correlation_chance", "sign_agreement_chance")
"""Columns of the curve. Chance: what the virtual step of the next correction in the sample scores."""
CELL = ["optimiser", "update", "layer", "step_size"]
"""The other columns of the curve."""
OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains


def layers_of(decoder: Decoder) -> list[int]:
    """At most LAYERS block indices, evenly spread, the last one included."""
    return sorted({round(at) for at in np.linspace(0, decoder.n_layers - 1, min(LAYERS, decoder.n_layers))})


def real_shifts(
    decoder: Decoder, sample: Sample, optimiser: str, put_back: Callable[[], None]
) -> Iterator[Float[np.ndarray, " vocabulary"]]:
    """The shift after one optimiser step, made as large as each size in UPDATES; `put_back` gives the weights back."""
    parameters, own = list(decoder.model.parameters()), speaker(decoder.model)
    ids = torch.tensor([sample.prompt], device=decoder.device)
    before, clean = [value.detach().clone() for value in parameters], own(ids)[0, -1].log_softmax(-1)
    taken = OPTIMISERS[optimiser](parameters, lr=1.0)  # pyright: ignore[reportCallIssue]
    sample_loss(decoder, sample).backward()
    taken.step()
    taken.zero_grad()
    moves = [now.detach() - then for now, then in zip(parameters, before, strict=True)]
    unit = get_total_norm(before) / get_total_norm(moves).clamp_min(torch.finfo(torch.float32).tiny)
    for update in UPDATES:
        with torch.no_grad():
            for value, then, move in zip(parameters, before, moves, strict=True):
                value.copy_(then + update * unit.to(move) * move)
        yield (own(ids)[0, -1].log_softmax(-1) - clean).cpu().numpy()
    put_back()


def agreement(
    real: Float[np.ndarray, " token"], virtual: Float[np.ndarray, "layer step token"]
) -> tuple[Float[np.ndarray, "layer step"], Float[np.ndarray, "layer step"]]:
    """Correlation, and share of equal signs, over the tokens that the real step shifts most, up and down."""
    order = np.argsort(real)
    tokens: Int[np.ndarray, " top"] = np.unique(np.concatenate([order[:TOP], order[-TOP:]]))
    one, two = real[tokens].astype(np.float64), virtual[..., tokens].astype(np.float64)
    deviation, others = one - one.mean(), two - two.mean(-1, keepdims=True)
    scale = np.linalg.norm(deviation) * np.linalg.norm(others, axis=-1)
    correlation = (others @ deviation) / np.where(scale == 0, 1.0, scale)
    return correlation, (np.sign(two) == np.sign(one)).mean(-1)


@torch.no_grad()
def slope(
    decoder: Decoder,
    sample: Sample,
    layer: int,
    gradient: Float[np.ndarray, " d_model"],
    activation: Float[np.ndarray, " d_model"],
) -> float:
    """Central difference of the loss along the unit update direction after a layer at the last prompt token."""
    unit = -gradient.astype(np.float64)
    unit /= max(float(np.linalg.norm(unit)), np.finfo(np.float64).tiny)
    size = NUDGE * float(np.linalg.norm(activation))

    def loss_at(offset: float) -> float:
        def move(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            stream = residual(output).clone()
            stream[0, len(sample.prompt) - 1] += torch.from_numpy(offset * unit).to(stream)
            return with_residual(output, stream)

        with decoder.blocks[layer].register_forward_hook(move):
            return float(sample_loss(decoder, sample))

    return (loss_at(size) - loss_at(-size)) / (2 * size)


def compare(decoder: Decoder, samples: Sequence[Sample], advance: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The curve (one row an optimiser, update, layer and step size; means over the samples) and the metrics."""
    layers, named = layers_of(decoder), named_tokens(decoder)
    shape = (len(samples), len(layers))
    gradient, activation = (np.empty((*shape, decoder.d_model), dtype=np.float32) for _ in range(2))
    for found in activation_gradients(decoder, samples, layers):
        gradient[found.rows], activation[found.rows] = found.gradient, found.activation
    virtual = np.empty((*shape, len(STEP_SIZES), named), dtype=np.float32)
    for steps in virtual_steps(decoder, samples, gradient, layers, STEP_SIZES, top_tokens=named, continuation_tokens=0):
        shifts = np.empty_like(steps.up_shifts)
        np.put_along_axis(shifts, steps.up_ids, steps.up_shifts, axis=-1)
        virtual[steps.rows] = shifts
    slopes = np.array(
        [
            [slope(decoder, sample, *each) for each in zip(layers, gradient[row], activation[row], strict=True)]
            for row, sample in enumerate(samples)
        ]
    )
    scores = np.empty((len(OPTIMISERS), len(UPDATES), len(samples), len(SCORES), len(layers), len(STEP_SIZES)))
    with trainable(decoder.model) as put_back:
        for row, sample in enumerate(samples):
            own, other = virtual[row], virtual[(row + 1) % len(samples)]
            for which, optimiser in enumerate(OPTIMISERS):
                for size, real in enumerate(real_shifts(decoder, sample, optimiser, put_back)):
                    scores[which, size, row] = [*agreement(real[:named], own), *agreement(real[:named], other)]
            advance(1)
    mean = np.moveaxis(scores.mean(2), 2, -1)
    cells = pl.DataFrame(list(itertools.product(OPTIMISERS, UPDATES, layers, STEP_SIZES)), CELL, orient="row")
    curve = cells.hstack(pl.DataFrame(mean.reshape(-1, len(SCORES)), list(SCORES)))
    norms = np.linalg.norm(gradient.astype(np.float64), axis=-1)
    metrics = {
        "samples": len(samples),
        "top_tokens": TOP,
        "agrees_from": AGREES,
        "agreement": {optimiser: agreeing(curve.filter(optimiser=optimiser)) for optimiser in OPTIMISERS},
        "slope": {
            str(layer): {
                "finite_difference": float(one.mean()),
                "minus_gradient_norm": float(-norm.mean()),
                "median_relative_error": float(np.median(np.abs(one + norm) / norm.clip(1e-30))),
            }
            for layer, one, norm in zip(layers, slopes.T, norms.T, strict=True)
        },
    }
    return curve, metrics


def agreeing(curve: pl.DataFrame) -> dict[str, Any]:
    """The best cell of one optimiser's curve, and by layer and update the smallest and largest step size that agree."""
    best = curve.sort("correlation", descending=True).row(0, named=True)
    good = curve.filter(*(pl.col(name) >= least for name, least in AGREES.items()))
    sizes: dict[str, dict[str, list[float]]] = {str(layer): {} for layer in curve["layer"].unique().sort()}
    for (layer, update), rows in good.group_by("layer", "update", maintain_order=True):
        sizes[str(layer)][f"{update:g}"] = [rows["step_size"].min(), rows["step_size"].max()]  # type: ignore[list-item]
    return {"share_of_grid": len(good) / len(curve), "step_sizes": sizes, "best": best}


def main() -> None:
    """Compares both steps on a sample of all domains' corrections."""
    line = parser(__doc__, "tools.real_step")
    line.add_argument("--samples", type=int, default=32, help="corrections to take real steps on, 2 or more")
    count = line.parse_args().samples
    if count < 2:
        raise InputError(f"--samples: found {count}, wanted 2 or more")
    domains = read_sections(Sections).domains
    every = pl.concat([read_table(Path("data/prompts") / f"{name}.parquet", PROMPTS) for name in domains])
    prompts = by_hash(every.filter(pl.col("kind") != ROW), 0, "real step", "prompt_id")[:count]
    decoder, _ = open_model()
    with progress("real steps", len(prompts)) as advance, naming_prompts(prompts, "data/prompts"):
        curve, metrics = compare(decoder, samples_of(decoder, prompts), advance)
    with replacing(FOLDER / "curve.csv") as partial:
        curve.write_csv(partial, float_precision=6)
    write_json(FOLDER / "metrics.json", metrics)
    for optimiser, found in metrics["agreement"].items():
        best = found["best"]
        print(
            f"{optimiser}: best correlation {best['correlation']:.2f} (signs {best['sign_agreement']:.0%}) at layer "
            f"{best['layer']}, step size {best['step_size']}, update {best['update']:g}; "
            f"agrees in {found['share_of_grid']:.0%} of the grid"
        )
    plot = f"dvc plots show {FOLDER / 'curve.csv'} --template real_step -x step_size -y correlation"
    print(f"the figure: {plot}")


if __name__ == "__main__":
    run(main)
