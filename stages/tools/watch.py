"""Watches training: says in words what the next update is about to teach, before the weights move.

A callback for the transformers Trainer. Every `every` steps it takes the gradients of the batch at the projector's
layers, from the training step's own backward pass (no extra pass), lets the pipeline's frozen model report them, and
keeps the reports with the top lens tokens in a Parquet file.

  from gradaware import GradientWatch
  trainer = Trainer(..., callbacks=[GradientWatch(every=10, output=Path("watch.parquet"))])

Where a `GradientScale` turns a part of the gradient down or up, the watch says in words what that part is, and what is
then learned.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from ..core.concepts.scaling import one_a_block, part_in
from ..core.data.places import FIRST, target_token
from ..core.engine.gradients import at_places
from ..core.evaluate.baselines import unembedded
from ..core.grounding.reported import reports_of
from ..core.model.decoder import residual
from ..core.model.opening import open_model
from ..core.reader.gate import FAINT
from ..core.reader.reader import load_reader
from ..core.run.errors import InputError
from ..core.run.files import replacing
from .gradient_scale import GradientScale, blocks_of
from .reading import check_places

REPORT_TOKENS = 24
LENS_TOKENS = 3
COLUMNS = {
    "step": pl.Int64,  # the optimiser step that the gradient is about to make
    "row": pl.Int64,  # in the batch
    "prompt": pl.String,
    "target": pl.String,
    "says": pl.String,  # the model's most likely token in the target's place
    "loss": pl.Float32,  # -log p(target | prompt), nats
    "report": pl.String,
    "confidence": pl.Float32,  # of the gate, that its report accounts for what is read; below 0.5 the slots hold zeros
    "tokens_up": pl.List(pl.String),
    "tokens_down": pl.List(pl.String),
    "gradient_norm": pl.Float32,  # of this row's own loss, nats per unit of the residual stream; mean over layers
}
SCALED_COLUMNS = {
    "part_report": pl.String,  # on the gradient's part in the subspace: what is taken out, or turned up
    "part_share": pl.Float32,  # of the gradient's norm at the first place that lies in the subspace; mean over layers
    "left_report": pl.String,  # on what goes on to the weights
}
"""Where gradients are scaled as well. A part of a norm below FAINT of the usual is reported as no pressure."""


class GradientWatch(TrainerCallback):
    """Reports what a batch's gradients are about to teach; `records` holds a row a sample watched.

    The model in training has to have the architecture of the model under study: its gradients are read by the
    pipeline's own frozen copy and projector. A batch needs `input_ids` and `labels` (-100 where there is no loss); what
    is read is the gradient at the projector's places, the first of them the last token before the first label, where
    the correction begins. It is taken times the number of labels, since the loss of a batch is the mean over them: the
    gradient of the row's own summed loss. Under another loss its norm is off by a factor.

    With a `GradientScale`, which has to be among the callbacks too (in any order), what is read is the gradient as it
    reaches a layer, and beside it its part in the subspace and what the scaling leaves.
    """

    def __init__(
        self, every: int, output: Path | None = None, data: Path = Path("data"), scale: GradientScale | None = None
    ) -> None:
        """Opens the model and projector in `data`.

        Raises:
            InputError: `every` is below 1, no model or projector is there, or it reads at a subject, which a batch
                doesn't mark.
        """
        if every < 1:
            raise InputError(f"every: found {every}, wanted 1 or more steps")
        self.every, self.output, self.scale = every, output, scale
        self.decoder, card = open_model(data / "model")
        self.reader = load_reader(self.decoder, data / "projector", card.id, card.commit)
        check_places(self.reader, data / "projector")
        self.records: list[dict[str, Any]] = []
        self._due = False
        self._inputs: dict[str, Tensor] = {}
        self._labels = 0.0
        self._outcome: tuple[list[float], list[int]] = [], []
        self._gradients: dict[int, Tensor] = {}
        self._hooks = ExitStack()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Starts to listen to the model's batches and to the gradients at the projector's layers."""
        model: PreTrainedModel = kwargs["model"]
        blocks = blocks_of(model, self.decoder)
        self._hooks.enter_context(model.register_forward_pre_hook(self._note_inputs, with_kwargs=True))
        self._hooks.enter_context(model.register_forward_hook(self._note_outcome))
        for layer in self.reader.card.layers:
            # in front: the gradient is noted before another hook scales it
            self._hooks.enter_context(blocks[layer].register_forward_hook(self._noting(layer), prepend=True))

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Decides whether this step is one to be read."""
        self._due = state.global_step % self.every == 0

    def _note_inputs(self, module: Any, arguments: Any, named: dict[str, Any]) -> None:
        if self._due and torch.is_grad_enabled() and "labels" in named:
            self._inputs = {name: named[name].detach() for name in ("input_ids", "labels")}
            count = named.get("num_items_in_batch")  # of all batches that one step adds up; None: this batch's own
            self._labels = float((named["labels"][:, 1:] != -100).sum() if count is None else count)

    def _note_outcome(self, module: Any, arguments: Any, output: Any) -> None:
        if self._due and torch.is_grad_enabled() and self._inputs:
            self._outcome = outcome(output.logits.detach(), self._inputs["labels"])

    def _noting(self, layer: int) -> Any:
        def note(module: Any, arguments: Any, output: Any) -> None:
            stream = residual(output)
            if self._due and stream.requires_grad:
                stream.register_hook(lambda gradient: self._gradients.__setitem__(layer, gradient.detach()))

        return note

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Reads the batch's gradients: the weights have not moved yet."""
        if self._due and self._inputs and self._gradients:
            self._read(state.global_step)
        self._inputs, self._gradients = {}, {}

    def _read(self, step: int) -> None:
        ids, labels = self._inputs["input_ids"], self._inputs["labels"]
        at, taught = starts(labels)
        if not taught:
            return
        card = self.reader.card
        streams = [self._gradients[layer][taught] for layer in card.layers]
        gradient = self._labels * at_places(streams, positions(labels, card.places)[taught])
        longer = ((labels[taught] != -100).sum(1) > len(card.places)).nonzero().flatten().tolist()
        told = reports_of(self.reader, gradient, REPORT_TOKENS, sentences=longer)
        shift = unembedded(self.decoder, gradient[:, len(card.layers) - 1])

        def words(scores: Float[Tensor, "row vocabulary"]) -> list[list[str]]:
            return [[self.decoder.text([token]) for token in row] for row in scores.topk(LENS_TOKENS).indices.tolist()]

        losses, says = self._outcome
        columns: dict[str, Sequence[Any]] = {
            "step": [step] * len(taught),
            "row": taught,
            "prompt": [self.decoder.text(ids[row, : int(at[row]) + 1].tolist(), special=False) for row in taught],
            "target": [self.decoder.text(row[row != -100].tolist(), special=False) for row in labels[taught]],
            "says": [self.decoder.text([says[row]]) for row in taught],
            "loss": [losses[row] for row in taught],
            "report": told["report"],
            "confidence": told["confidence"].tolist(),
            "tokens_up": words(shift),
            "tokens_down": words(-shift),
            "gradient_norm": told["norm"].tolist(),
            **self._scaled(gradient),
        }
        self.records += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _scaled(self, gradient: Float32[np.ndarray, "row vector d_model"]) -> dict[str, Sequence[Any]]:
        """SCALED_COLUMNS of gradients at the reader's places and layers; none where nothing is scaled."""
        if self.scale is None:
            return {}
        placed = self.reader.by_place(torch.from_numpy(gradient))
        bases = one_a_block(self.scale.bases, self.decoder.n_layers)
        part = torch.stack([part_in(placed[:, :, at], bases[n]) for at, n in enumerate(self.reader.card.layers)], 2)
        norms = placed[:, 0].norm(dim=-1).clamp_min(torch.finfo(placed.dtype).tiny)

        def read(each: Float[Tensor, "row place layer d_model"]) -> list[str]:
            return reports_of(self.reader, each.flatten(1, 2).cpu().numpy(), REPORT_TOKENS, FAINT)["report"]

        return {
            "part_report": read(part),
            "part_share": (part[:, 0].norm(dim=-1) / norms).mean(-1).tolist(),
            "left_report": read(placed + (self.scale.alpha - 1) * part),
        }

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stops listening and writes the records."""
        self._hooks.close()
        if self.output is not None:
            with replacing(self.output) as partial:
                columns = COLUMNS if self.scale is None else COLUMNS | SCALED_COLUMNS
                pl.DataFrame(self.records, schema=columns).write_parquet(partial)


@torch.no_grad()
def outcome(
    logits: Float[Tensor, "row position vocabulary"], labels: Int[Tensor, "row position"]
) -> tuple[list[float], list[int]]:
    """Each row's loss, summed over its labels (nats), and the token found likeliest in place of its first label."""
    at, _ = starts(labels)
    row, position = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    logprobs = logits[row, position].float().log_softmax(-1).gather(-1, labels[row, position + 1][:, None])[:, 0]
    losses = logprobs.new_zeros(len(labels)).index_add(0, row, -logprobs)
    return losses.tolist(), logits[torch.arange(len(labels), device=at.device), at].argmax(-1).tolist()


def starts(labels: Int[Tensor, "row position"]) -> tuple[Int[Tensor, " row"], list[int]]:
    """The position before each row's first label, and the rows that have one (and a prompt in front of it)."""
    taught = labels != -100
    first = taught.int().argmax(1)
    rows = [row for row in range(len(labels)) if taught[row].any() and first[row] > 0]
    return (first - 1).clamp_min(0), rows


def positions(labels: Int[Tensor, "row position"], places: Sequence[str] = (FIRST,)) -> Int[Tensor, "row place"]:
    """The position of each place `target_<n>`; -1 where a row has fewer labels."""
    at, _ = starts(labels)
    number = torch.tensor([target_token(place) for place in places], device=at.device)
    there = number <= (labels != -100).sum(1, keepdim=True)
    return torch.where(there, at[:, None] + number - 1, -1)
