"""The tools a user would pick today, each with the same two methods: a Hugging Face loop, nnsight, TransformerLens.

Each takes a model as it is loaded: batch 1, all parameters with their gradients on, logits at every position. nnsight
and TransformerLens are optional: their classes raise ImportError where they are missing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from stages.core.engine.samples import Sample
from stages.core.model.decoder import residual, with_residual

Stream = Float[Tensor, "1 position d_model"]
Logits = Float[Tensor, "1 position vocabulary"]
Move = Callable[[Stream], Stream]


class Peer(ABC):
    """One tool around one model."""

    name: str

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(True)

    @abstractmethod
    def backward(self, ids: Int[Tensor, "1 position"], layer: int, loss: Callable[[Logits], Tensor]) -> Stream:
        """The loss's gradient with respect to the stream after a block."""

    @abstractmethod
    def moved(self, ids: Int[Tensor, "1 position"], layer: int, move: Move) -> Logits:
        """The logits with the stream after a block replaced."""

    def gradient(self, sample: Sample, layer: int) -> Float[Tensor, " d_model"]:
        """dL/dh at the last prompt token after a block."""
        first, target = len(sample.prompt) - 1, torch.tensor(sample.target, device=self.model.device)[:, None]

        def loss(logits: Logits) -> Tensor:
            logprobs = logits[0, first : first + len(target)].log_softmax(-1)
            return -logprobs.gather(-1, target).sum()

        self.model.zero_grad(set_to_none=True)
        return self.backward(self._ids(*sample.prompt, *sample.target), layer, loss)[0, first]

    @torch.no_grad()
    def step(
        self, sample: Sample, layer: int, direction: Float[Tensor, " d_model"], size: float
    ) -> Float[Tensor, " vocabulary"]:
        """Log-probabilities after the prompt with h + size |h| u/|u| in place at its last token."""

        def move(stream: Stream) -> Stream:
            stream = stream.clone()
            here = stream[0, -1].clone()
            stream[0, -1] = here + size * here.norm() * direction / direction.norm()
            return stream

        return self.moved(self._ids(*sample.prompt), layer, move)[0, -1].log_softmax(-1)

    def _ids(self, *tokens: int) -> Int[Tensor, "1 position"]:
        return torch.tensor([tokens], device=self.model.device)


class HuggingFace(Peer):
    """The naive loop: a hook on the model, a full backward pass, a forward pass for every step size."""

    name = "Hugging Face loop"

    def backward(self, ids: Int[Tensor, "1 position"], layer: int, loss: Callable[[Logits], Tensor]) -> Stream:
        """See Peer."""
        kept: list[Tensor] = []

        def keep(_module: object, _arguments: object, output: Any) -> None:
            residual(output).retain_grad()
            kept.append(residual(output))

        handle = self._blocks()[layer].register_forward_hook(keep)
        logits = self.model(ids, use_cache=False).logits
        handle.remove()
        loss(logits).backward()
        assert kept[0].grad is not None
        return kept[0].grad

    def moved(self, ids: Int[Tensor, "1 position"], layer: int, move: Move) -> Logits:
        """See Peer."""
        handle = self._blocks()[layer].register_forward_hook(
            lambda _module, _arguments, output: with_residual(output, move(residual(output)))
        )
        logits = self.model(ids, use_cache=False).logits
        handle.remove()
        return logits

    def _blocks(self) -> Any:
        return self.model.model.layers


class NNsight(Peer):
    """A trace for every sample."""

    name = "nnsight"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        import nnsight  # pyright: ignore[reportMissingImports]

        self.traced: Any = nnsight.NNsight(model)

    def backward(self, ids: Int[Tensor, "1 position"], layer: int, loss: Callable[[Logits], Tensor]) -> Stream:
        """See Peer."""
        traced = self.traced
        with traced.trace(input_ids=ids, use_cache=False):
            stream = traced.model.layers[layer].output
            value: Any = loss(traced.lm_head.output)
            with value.backward():
                found = stream.grad.save()
        return found

    def moved(self, ids: Int[Tensor, "1 position"], layer: int, move: Move) -> Logits:
        """See Peer."""
        traced = self.traced
        with traced.trace(input_ids=ids, use_cache=False):
            traced.model.layers[layer].output = move(traced.model.layers[layer].output)
            logits = traced.lm_head.output.save()
        return logits


class TransformerLens(Peer):
    """The bridge around a model at hand (it changes the model in place: give it one of its own)."""

    name = "TransformerLens"

    def __init__(self, model: PreTrainedModel) -> None:
        from transformer_lens.model_bridge import sources  # pyright: ignore[reportMissingImports]

        super().__init__(model)
        self.bridge: Any = sources.build_bridge_from_module(model, type(model).__name__, hf_config=model.config)

    def backward(self, ids: Int[Tensor, "1 position"], layer: int, loss: Callable[[Logits], Tensor]) -> Stream:
        """See Peer."""
        kept: list[Tensor] = []

        def keep(stream: Tensor, hook: object) -> None:
            stream.retain_grad()
            kept.append(stream)

        with self.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_out", keep)]):
            loss(self.bridge(ids, return_type="logits")).backward()
        assert kept[0].grad is not None
        return kept[0].grad

    def moved(self, ids: Int[Tensor, "1 position"], layer: int, move: Move) -> Logits:
        """See Peer."""
        with self.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_out", lambda stream, hook: move(stream))]):
            return self.bridge(ids, return_type="logits")


PEERS: dict[str, type[Peer]] = {"naive": HuggingFace, "nnsight": NNsight, "transformer_lens": TransformerLens}
