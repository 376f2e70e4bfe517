"""A dictionary: named directions of the residual stream after a block, and how strongly an activation has each.

Every kind is kept in SAELens' format, a folder of cfg.json and sae_weights.safetensors: a plain direction is a feature
whose encoder is the direction itself. So published dictionaries are read here, and ours open in SAELens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..model.opening import ModelCard
from ..run.errors import InputError, one_line
from ..run.files import read_json, replacing, write_json
from ..run.seeds import keyed_rng

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
FORMAT = "6.0.0"
"""SAELens' version since which cfg.json is of this form."""
ARCHITECTURES = ("topk", "standard", "jumprelu")
"""What is read: the largest k of all features, those above 0, those above a threshold of their own."""
HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


@dataclass(frozen=True)
class Dictionary:
    """Features of one layer of one model.

    Attributes:
        kind: how the directions were found.
        model, commit: the model's id, and its commit where that is known.
        layer: 0-based; the residual stream after this block.
        directions: what a feature adds to the residual stream when its activation is 1 (SAELens: W_dec).
        encoder, bias, centre: W_enc, b_enc and b_dec.
        settings: the rest of cfg.json: architecture, k, apply_b_dec_to_input.
        threshold: of each feature, in architecture jumprelu.
        names: of each feature, what it stands for in some column of the prompts ("relation": "currency").
        scores: how well an activation of the feature detects each of its names on prompts that had no part in the
            naming: area under the curve, 0.5 is chance; no entry where no such prompt has the name.
    """

    kind: str
    model: str
    commit: str | None
    layer: int
    directions: Float[Tensor, "feature d_model"]
    encoder: Float[Tensor, "d_model feature"]
    bias: Float[Tensor, " feature"]
    centre: Float[Tensor, " d_model"]
    settings: dict[str, Any] = field(default_factory=lambda: {"architecture": "standard", "apply_b_dec_to_input": True})
    threshold: Float[Tensor, " feature"] | None = None
    names: Sequence[dict[str, str]] = ()
    scores: Sequence[dict[str, float]] = ()

    @torch.no_grad()
    def activations(self, streams: Float[Tensor, "row d_model"]) -> Float[Tensor, "row feature"]:
        """How strongly each feature is active, 0 where it is not."""
        shift = self.centre if self.settings["apply_b_dec_to_input"] else 0
        before = (streams - shift) @ self.encoder + self.bias
        if self.threshold is not None:
            return before * (before > self.threshold)
        if "k" in self.settings:
            most = before.topk(min(self.settings["k"], before.shape[-1]), -1)
            before = torch.zeros_like(before).scatter(-1, most.indices, most.values)
        return before.relu()

    def check(self, card: ModelCard, layers: Sequence[int]) -> None:
        """Raises:
        InputError: it is of another model, layer or width than what it is used with.
        """
        ours, theirs = (name.rpartition("/")[2].lower() for name in (card.id, self.model))
        same = ours.startswith(theirs) or theirs.startswith(ours)  # gpt2 is called gpt2-small elsewhere
        if not same or (self.commit is not None and self.commit != card.commit):
            raise InputError(
                f"dictionary {self.kind}: found one of model {self.model} at {self.commit}, wanted {card.id} at "
                f"{card.commit}; make it anew, or use the model that it is of"
            )
        if self.layer not in layers:
            raise InputError(
                f"dictionary {self.kind}: found one of layer {self.layer}, wanted one of {', '.join(map(str, layers))}"
            )
        if (width := self.directions.shape[1]) != card.d_model:
            raise InputError(f"dictionary {self.kind}: found vectors of width {width}, wanted {card.d_model}")

    @property
    def unit(self) -> Float[Tensor, "feature d_model"]:
        """The directions at length 1."""
        return torch.nn.functional.normalize(self.directions, dim=-1)

    def save(self, folder: Path) -> None:
        """Writes cfg.json and sae_weights.safetensors, as SAELens does."""
        weights = {"W_dec": self.directions, "W_enc": self.encoder, "b_enc": self.bias, "b_dec": self.centre}
        weights |= {} if self.threshold is None else {"threshold": self.threshold}
        features, width = self.directions.shape
        own = {name: getattr(self, name) for name in ("kind", "commit", "names", "scores")}
        own |= {"model_name": self.model, "hook_name": f"blocks.{self.layer}.hook_resid_post"}
        own |= {"sae_lens_version": FORMAT}
        shape = {"d_in": width, "d_sae": features, "dtype": "float32", "device": "cpu"}
        plain = {"normalize_activations": "none", "reshape_activations": "none"}
        with replacing(folder) as partial:
            partial.mkdir()
            save_file({name: value.float().contiguous() for name, value in weights.items()}, partial / WEIGHTS)
            write_json(
                partial / CONFIG, {**self.settings, **shape, **plain, "metadata": {**own, "sae_lens_version": FORMAT}}
            )


def plain(
    kind: str, card: ModelCard, layer: int, directions: Float[Tensor, "feature d_model"], centre: Tensor
) -> Dictionary:
    """The dictionary of some directions: a feature is as active as an activation, less `centre`, goes along it."""
    unit = torch.nn.functional.normalize(directions.float(), dim=-1)
    return Dictionary(kind, card.id, card.commit, layer, unit, unit.T.contiguous(), unit.new_zeros(len(unit)), centre)


def random_directions(seed: int, layer: int, count: int, width: int) -> Float[Tensor, "feature d_model"]:
    """Directions from a normal distribution, drawn by seed and layer: those of a random dictionary."""
    return torch.from_numpy(keyed_rng(seed, "random directions", layer).standard_normal((count, width))).float()


def fetched(source: str) -> Path:
    """The folder of a dictionary on the Hub, named owner/repository/folder@commit.

    Raises:
        InputError: it has no such name, or can't be had.
    """
    if not (name := re.fullmatch("([^/@]+/[^/@]+)/([^@]+)@([0-9a-f]{40})", source)):
        raise InputError(f"dictionary: found {source}, wanted a folder, or owner/repository/folder@commit of the Hub")
    repository, folder, commit = name.groups()
    try:
        return Path(snapshot_download(repository, revision=commit, allow_patterns=f"{folder}/*")) / folder
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"dictionary: {source}: found none there, or no way to it: {one_line(error)}") from error


def load(source: str) -> Dictionary:
    """Reads a dictionary in SAELens' format from a folder, or from the Hub (see `fetched`).

    Raises:
        InputError: there is none, or it is of a form that is not read here; names the file, what was found and wanted.
    """
    folder = Path(source) if Path(source).is_dir() else fetched(source)
    config = read_json(folder / CONFIG)
    about = {**config, **config.get("metadata", {})}
    wanted = {"architecture": ARCHITECTURES, "normalize_activations": ("none",), "reshape_activations": ("none",)}
    for key, allowed in wanted.items():
        if (found := config.get(key) or "none") not in allowed:
            words = " or ".join(allowed)
            raise InputError(f"{folder / CONFIG}: {key}: found {found}, wanted {words}: no other is read here")
    if not (hook := HOOK.fullmatch(found := str(about.get("hook_name")))):
        raise InputError(f"{folder / CONFIG}: hook_name: found {found}, wanted blocks.N.hook_resid_post (or _pre)")
    try:
        weights = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        directions, encoder, bias = weights["W_dec"], weights["W_enc"], weights["b_enc"]
        rescaled = config.get("rescale_acts_by_decoder_norm")
        scale = directions.norm(dim=-1).clamp_min(1e-12) if rescaled else torch.ones_like(bias)
        return Dictionary(
            about.get("kind", "sparse autoencoder"),
            about["model_name"],
            about.get("commit"),
            int(hook[1]) - (hook[2] == "pre"),
            directions / scale[:, None],
            encoder * scale,
            bias * scale,
            weights["b_dec"],
            {name: config[name] for name in ("architecture", "k", "apply_b_dec_to_input") if name in config},
            weights.get("threshold"),
            about.get("names", ()),
            about.get("scores", ()),
        )
    except (OSError, KeyError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder}: not a dictionary in SAELens' format ({one_line(error)})") from error
