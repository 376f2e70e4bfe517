"""A trained reader's weights on disk: loading them for the model they were made for, and writing them."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..model.decoder import Decoder
from ..run.errors import InputError
from .card import BIAS, bias_card, read_projector_card
from .reader import Reader


def load_reader(
    decoder: Decoder, folder: Path, model: str, commit: str, seed: int | None = None, *, bias_only: bool = False
) -> Reader:
    """Loads the trained projector of a seed (None: the first) for `model` at `commit`; `bias_only`: its control.

    Raises:
        InputError: the folder has no projector, its card or weights do not fit, or it was made for another model,
            commit or width.
    """
    path = folder / "projector.json"
    card = read_projector_card(folder)
    for key, found, wanted in (
        ("model", card.model, model),
        ("commit", card.commit, commit),
        ("d_model", card.d_model, decoder.d_model),
    ):
        if found != wanted:
            raise InputError(
                f"{path}: {key}: made for {found!r}, the model here has {wanted!r}; run dvc repro projector"
            )
    for layer in card.layers:
        decoder.check_layer(layer, key=f"{path}: layers")
    if bias_only:
        card, folder = bias_card(card), folder / BIAS
    seed = card.seeds[0] if seed is None else seed
    reader = Reader.new(decoder, card, seed)
    weights = folder / f"seed_{seed}.safetensors"
    try:
        reader.kept.load_state_dict(load_file(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{weights}: not the weights of {path} ({error}); run dvc repro projector") from error
    if reader.adapter is not None:
        reader.adapter.load(folder / f"lora_seed_{seed}.safetensors")
    return reader


def save_reader(reader: Reader, folder: Path) -> None:
    """Writes projector and gate into an existing folder: `seed_<seed>.safetensors`, and LoRA beside it."""
    state = {name: value.contiguous() for name, value in reader.kept.state_dict().items()}
    save_file(state, folder / f"seed_{reader.seed}.safetensors")
    if reader.adapter is not None:
        reader.adapter.save(folder / f"lora_seed_{reader.seed}.safetensors")
