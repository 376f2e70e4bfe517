"""The model as the reader of its own gradients: what a gradient puts into slots; loading a trained one, and saving."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.decoder import Decoder
from ..run.errors import InputError
from .card import BIAS, Card, bias_card, read_projector_card
from .gate import Gate
from .injection import Slots
from .lora import Adapter
from .projectors import ARCHITECTURES, ONE_SLOT, Whitened, directions, whitening
from .vocabulary import Tokens


class Reader:
    """A frozen model that reads gradients through a projector, with LoRA on the verbaliser or (most often) without.

    Attributes:
        trained: the module of everything that training changes: the projector, and the LoRA weights where there are.
            Frozen but within `training.train`.
        kept: projector and gate, which are saved together.
    """

    def __init__(self, decoder: Decoder, card: Card, seed: int) -> None:
        """A reader with an untrained projector and an open gate; the seed gives its weights.

        Raises:
            InputError: the architecture is unknown, names those that are known, or fills one slot and more are asked
                for; or the model has no such block to add after, or it is the last, behind which no other position
                looks at the slots that are added to.
        """
        if card.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise InputError(f"params.yaml: projector.architecture: found {card.architecture!r}, wanted one of {known}")
        if card.slots > 1 and ARCHITECTURES[card.architecture] in ONE_SLOT:
            raise InputError(
                f"params.yaml: projector.slots: found {card.slots}, wanted 1: architecture {card.architecture!r} fills "
                "one slot from each place; take a linear map or an mlp"
            )
        block = card.injection.block
        if block is not None:
            decoder.check_layer(block, key="projector.injection.block")
            if card.injection.at == "slots" and block == decoder.n_layers - 1:
                raise InputError(
                    f"projector.injection.block: found {block}, wanted less with at slots: after the last block no "
                    "other position looks at the slots"
                )
        torch.manual_seed(seed)
        projector = ARCHITECTURES[card.architecture](len(card.layers), card.d_model, card.width, card.slots)
        if card.whiten:
            projector = Whitened(projector, len(card.layers) * card.d_model)
        self.decoder, self.card, self.seed = decoder, card, seed
        self.adapter = None if card.lora_on_the_verbaliser is None else Adapter(decoder, card.lora_on_the_verbaliser)
        self.projector = self.trained = projector.to(decoder.device)
        if self.adapter is not None:
            self.trained = nn.ModuleDict({"projector": self.projector, "lora": self.adapter.weights})
        self.trained.eval().requires_grad_(False)
        # the raw direction lies where the head's rows do; a learned map writes embeddings
        self.tokens = Tokens(decoder, output=card.architecture == "raw")
        self.gate = Gate().to(decoder.device)
        self.kept = nn.ModuleDict({"projector": self.projector, "gate": self.gate})

    def by_place(self, gradients: Float[Tensor, "row vector d_model"]) -> Float[Tensor, "row place layer d_model"]:
        """The gradients, all layers of a place and then those of the next, with places and layers apart."""
        return gradients.to(self.decoder.device).unflatten(1, (len(self.card.places), len(self.card.layers)))

    def read(self, gradients: Float[Tensor, "row vector d_model"]) -> Slots:
        """What these gradients put into the slots (the injection sets the norm).

        The projector of the update direction at each place, and of its negative. A row has as many places as gradients
        that are not zero, and at least one; each fills `card.slots` slots.
        """
        placed = self.by_place(gradients)
        direction = directions(placed)
        felt, opposite = (
            self.projector(each).unflatten(-1, (self.card.slots, -1)).flatten(1, 2) for each in (direction, -direction)
        )
        count = (placed.flatten(2) != 0).any(-1).sum(-1).clamp_min(1) * self.card.slots
        return Slots(felt, opposite, count)

    def strength(self, gradients: Float[Tensor, "row vector d_model"]) -> Float[Tensor, "row layer"]:
        """The gradient's norm at the first place, as a multiple of what training gradients have, layer by layer.

        Infinite where the card has no norms to compare with.
        """
        norms = self.by_place(gradients)[:, 0].norm(dim=-1)
        return norms / norms.new_tensor(self.card.reference or [0.0])

    def fit_whitening(self, blocks: Iterable[Float[Tensor, "_ vector d_model"]]) -> None:
        """Takes the whitening, where the card asks for one, from training gradients at all places, some at a time."""
        if isinstance(self.projector, Whitened):
            parts = (directions(self.by_place(block)).flatten(0, 1) for block in blocks)
            self.projector.matrix.copy_(whitening(part[(part != 0).any(-1)] for part in parts))

    def sized(self, slots: Slots, toward: Iterable[str]) -> Slots:
        """As many slots a row as the name has tokens that the reader says it moves toward, where a place fills several.

        A name of one token, written into three slots, would not fit into the place of a word.
        """
        if self.card.slots == 1:
            return slots
        lengths = [len(self.decoder.continuation(name)) if name else 1 for name in toward]
        return Slots(slots.felt, slots.opposite, slots.count.minimum(slots.count.new_tensor(lengths)))

    def freed(self, slots: Slots, toward: Iterable[str], away: Iterable[str]) -> Slots:
        """What is felt without its part along the name that it moves away from; two names a row, as the reader says.

        At the first place where the two names' tokens differ, the direction of the token's embedding of the name moved
        away from is projected out. Without that name nothing is.
        """
        felt = F.normalize(slots.felt, dim=-1).clone()
        for row, names in enumerate(zip(toward, away, strict=True)):
            to, from_ = (self.decoder.continuation(name) if name else [] for name in names)
            place = next((k for k, token in enumerate(from_) if to[k : k + 1] != [token]), len(from_))
            if place < min(len(from_), int(slots.count[row])):
                token = self.tokens[from_[place]]
                felt[row, place] -= (felt[row, place] @ token) * token
        return Slots(felt, slots.opposite, slots.count)

    def verbaliser(self) -> AbstractContextManager[None]:
        """Within the block, the model is the one that reads and writes reports: with LoRA, where the card says so."""
        return nullcontext() if self.adapter is None else self.adapter.applied()


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
    for key, wanted in {"model": model, "commit": commit, "d_model": decoder.d_model}.items():
        if (found := getattr(card, key)) != wanted:
            raise InputError(
                f"{path}: {key}: made for {found!r}, the model here has {wanted!r}; run dvc repro projector"
            )
    for layer in card.layers:
        decoder.check_layer(layer, key=f"{path}: layers")
    if bias_only:
        card, folder = bias_card(card), folder / BIAS
    seed = card.seeds[0] if seed is None else seed
    reader = Reader(decoder, card, seed)
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
