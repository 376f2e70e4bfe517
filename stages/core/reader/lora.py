"""LoRA on the verbaliser: low-rank additions to the blocks' linear layers, trained with a projector, used for reading.

Everywhere else (gradients, virtual steps, the lens, what the model says by itself) they are off, and the model computes
what it did without them, bit for bit. Where a report was read with them, it is no longer the model that was measured
which reports, and everything that names the projector says so: "LoRA on the verbaliser".
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..model.decoder import Decoder
from ..run.errors import InputError
from .card import Lora


class Adapter:
    """One adapter in a model, beside any others; off unless `applied`.

    Attributes:
        weights: its parameters; where they are in training mode, they learn.
    """

    def __init__(self, decoder: Decoder, settings: Lora) -> None:
        """Puts it into the model, off and with no effect as yet (B is zero). Torch's global seed gives A."""
        from peft import LoraConfig, inject_adapter_in_model  # a fifth of a second, for those who use it
        from peft.tuners.lora import LoraLayer

        self.model = decoder.model
        inside = set(decoder.blocks.modules())
        targets = [
            name.removesuffix(".base_layer")
            for name, module in self.model.named_modules()
            if module in inside and type(module) in (nn.Linear, Conv1D) and ".lora_" not in name
        ]
        self.name = f"verbaliser_{len(getattr(self.model, 'peft_config', {}))}"
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a seed's projector beside another's
            inject_adapter_in_model(config, self.model, self.name)
        self.layers = [module for module in decoder.blocks.modules() if isinstance(module, LoraLayer)]
        self.weights = nn.ModuleList(part[self.name] for layer in self.layers for part in (layer.lora_A, layer.lora_B))
        for layer in self.layers:
            layer.enable_adapters(False)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block, the model computes with this adapter."""
        for layer in self.layers:
            layer.set_adapter(self.name)
            layer.enable_adapters(True)
        self.weights.requires_grad_(self.weights.training)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.enable_adapters(False)  # which also freezes: a backward pass is yet to come
            self.weights.requires_grad_(self.weights.training)

    def save(self, path: Path) -> None:
        """Writes the weights under peft's own names."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.model, adapter_name=self.name)
        save_file({name: value.contiguous() for name, value in state.items()}, path)

    def load(self, path: Path) -> None:
        """Takes the weights that `save` has written.

        Raises:
            InputError: they aren't there, or are another model's or rank's.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        try:
            state = load_file(path)
            wanted = get_peft_model_state_dict(self.model, adapter_name=self.name)
            if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in wanted.items()}:
                raise InputError("another model's layers, or another rank's")
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"{path}: not the LoRA weights wanted here ({error}); run dvc repro projector") from error
        set_peft_model_state_dict(self.model, state, adapter_name=self.name)
