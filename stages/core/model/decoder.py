"""A frozen causal language model and the places where its residual stream is reached, with no code per family.

The pieces (blocks, final norm, head) are found by role, not by name, and a short probe then checks that they make up
the model: the last block's output, normed and given to the head, must be the model's own logits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils.logging import disable_progress_bar

from ..run.errors import InputError
from .device import DeviceMap
from .supported import UNQUANTISED, quantised_by, refuse_unsupported

PROBE_TOKENS = 3
ANCHOR = "a"


class Decoder:
    """A causal language model in eval mode with every parameter frozen.

    Attributes:
        model: the Hugging Face model, head included.
        tokenizer: its tokenizer; None where only token ids are used.
        body: the model without its head: token ids in, normed residual stream out.
        blocks: the decoder blocks; the hook point of layer l is the residual stream after `blocks[l]`.
        norm: what stands between the last block and the head (an identity where there is nothing).
        n_layers, d_model: number of blocks, width of the residual stream.
        vocabulary: number of logits (may exceed the tokenizer's tokens: padding rows of the embedding).
        context_length: most tokens that the model takes, None where its config states no limit.
        device: where token ids go in, and where what leaves the body, norm or head comes back to, wherever they are.
        dtype: of the parameters.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Wraps a model at hand; sets it to eval mode and freezes its parameters in place.

        Raises:
            InputError: the model is quantised, spread over devices, offloaded, an encoder-decoder, in float16, uses an
                attention implementation that takes no mask, or has a part that is not found; names what.
        """
        refuse_unsupported(model)
        self.model = model.eval().requires_grad_(False)
        self.name = type(model).__name__  # what error messages call it
        self.tokenizer = tokenizer
        config = model.config.get_text_config(decoder=True)
        self.config = config
        self.body = _find_body(model)
        embedding = model.get_input_embeddings()
        if not isinstance(embedding, nn.Module):
            raise InputError(f"{self.name}: found no input embedding, wanted one from get_input_embeddings()")
        self.embedding = embedding
        weight = next(embedding.parameters())
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.owner, self.blocks = _find_blocks(self.body, config.num_hidden_layers, self.name)
        self.n_layers = len(self.blocks)
        self.d_model: int = config.hidden_size
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise InputError(f"{self.name}: found no head, wanted one from get_output_embeddings()")
        self.head = head
        self.soft_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.logit_scale = 1.0
        self.norm: nn.Module = nn.Identity()
        self._bring_back(self.body, self.head)
        self._probe()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        place: Callable[[PreTrainedModel], torch.device | DeviceMap] | None = None,
    ) -> "Decoder":
        """Loads a model and its tokenizer from a local folder or from the Hub (safetensors only, no remote code).

        `revision`: the commit of a Hub id; not used for a folder. `place`: where each part of the model goes, which is
        there without its weights yet; None: the CPU.

        Raises:
            InputError: no model there can be read, or it is unsupported, or too large; names which.
        """
        disable_progress_bar()  # of transformers, which shows it even where stderr is no terminal
        folder = Path(source).is_dir()
        options: dict[str, Any] = {"local_files_only": True} if folder else {"revision": revision}
        try:
            # Before the weights are read: transformers opens some quantised models as if they were not (fp8, mxfp4),
            # and for others asks for a package first.
            config = AutoConfig.from_pretrained(source, **options)
            if quantised := quantised_by(config):
                raise InputError(f"found a quantised model ({quantised}), wanted {UNQUANTISED}")
            where = None
            if place is not None:
                with torch.device("meta"):
                    where = place(AutoModelForCausalLM.from_config(config, dtype=dtype))
            if isinstance(where, dict):
                options["device_map"] = where
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
        except InputError as error:
            raise InputError(f"model: {source}: {error}") from error
        except (OSError, ValueError, KeyError) as error:
            wanted = "a folder in Hugging Face format (config.json, *.safetensors, tokenizer)" if folder else "a Hub id"
            raise InputError(f"model: {source}: found no causal language model, wanted {wanted}: {error}") from error
        if isinstance(where, torch.device):
            nn.Module.to(model, where)
        return cls(model, tokenizer)

    def check_layer(self, layer: int, *, key: str = "gradients.layers") -> int:
        """Returns the layer (0-based) as it is; `key`: the setting that holds it, for the message.

        Raises:
            InputError: there is no such block; names the key, what was found and the wanted range.
        """
        if not 0 <= layer < self.n_layers:
            raise InputError(
                f"{key}: found {layer}, wanted 0 to {self.n_layers - 1} ({self.name} has that many blocks)"
            )
        return layer

    def embed(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        """Token embeddings as the model's `inputs_embeds` takes them (scaled, where the embedding module scales)."""
        return self.embedding(ids.to(self.device))

    def text(self, ids: list[int] | tuple[int, ...], *, special: bool = True) -> str:
        """What these tokens say, without white space around it; `special`: special tokens are written out."""
        return str(self._needed_tokenizer().decode(list(ids), skip_special_tokens=not special)).strip()

    def tokens(self, text: str) -> list[int]:
        """A prompt's tokens, with the special tokens that the tokenizer puts in front (BOS).

        A special token that the tokenizer puts behind (EOS) is dropped: what is measured follows the last word.
        """
        special = set(self._needed_tokenizer().all_special_ids)
        ids, plain = self._read(text, special=True), self._read(text)
        while ids and ids[-1] in special and ids[-1] not in plain[-1:]:
            ids.pop()
        return ids

    def continuation(self, text: str) -> list[int]:
        """The tokens of " " + text, without special tokens, as they follow a prompt.

        A tokenizer that marks the start of a text as if it were a space (SentencePiece) would put a second space in
        front; so the tokens are read off behind an anchor word wherever the anchor's own tokens stay as they are.
        """
        anchor, both = self._read(ANCHOR), self._read(f"{ANCHOR} {text}")
        return both[len(anchor) :] if anchor and both[: len(anchor)] == anchor else self._read(f" {text}")

    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a text, from the generation config, the model's config and the tokenizer."""
        found: set[int] = set()
        for holder, key in (
            (getattr(self.model, "generation_config", None), "eos_token_id"),
            (self.config, "eos_token_id"),
            (self.tokenizer, "eos_token_id"),
        ):
            value = getattr(holder, key, None)
            found.update([value] if isinstance(value, int) else value or [])
        return frozenset(found)

    def logits(self, normed: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """The model's logits from the normed residual stream, soft-capped where the model does; float32 or float64."""
        logits = self.head(normed)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def logit_difference(
        self, before: Float[Tensor, "*#batch d_model"], after: Float[Tensor, "*#batch d_model"]
    ) -> Float[Tensor, "*batch vocabulary"]:
        """logits(after) - logits(before), with the difference taken before the head.

        The head is linear, so W (after - before) has the rounding error of a small number where a difference of two
        logits has that of two large ones. For the soft-cap c tanh(z/c), tanh a - tanh b = tanh(a-b) (1 - tanh a tanh b)
        """
        if not isinstance(self.head, nn.Linear) or self.head.bias is not None:
            return self.logits(after) - self.logits(before)
        change = self.head(after - before)
        change = change if change.dtype == torch.float64 else change.float()
        if self.logit_scale != 1.0:
            change = change * self.logit_scale
        if self.soft_cap is None:
            return change
        capped_before, capped_after = self.logits(before) / self.soft_cap, self.logits(after) / self.soft_cap
        return self.soft_cap * torch.tanh(change / self.soft_cap) * (1 - capped_before * capped_after)

    def _read(self, text: str, *, special: bool = False) -> list[int]:
        return list(self._needed_tokenizer()(text, add_special_tokens=special)["input_ids"])

    def _needed_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise InputError(f"{self.name}: found no tokenizer, wanted one to read text")
        return self.tokenizer

    def _bring_back(self, *modules: nn.Module) -> None:
        """Has what these modules return moved to `device`, where the model is spread over several."""
        for module in modules if len({parameter.device for parameter in self.model.parameters()}) > 1 else ():
            module.register_forward_hook(lambda _module, _given, output: send_to_device(output, self.device))

    @torch.no_grad()
    def _probe(self) -> None:
        """Finds the final norm and checks that blocks, norm and head together give the model's logits."""
        size = self.embedding.weight.shape[0] if isinstance(self.embedding, nn.Embedding) else PROBE_TOKENS
        ids = torch.arange(PROBE_TOKENS, device=self.device)[None] % size
        calls: list[tuple[nn.Module, Any, Any]] = []

        def note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            calls.append((module, arguments[0] if arguments else None, residual(output)))

        watched = [self.blocks[-1], *(child for child in self.owner.children() if child is not self.blocks)]
        handles = [module.register_forward_hook(note) for module in watched]
        try:
            output = self.body(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        last = next((result for module, _, result in calls if module is self.blocks[-1]), None)
        if not isinstance(last, Tensor) or last.shape != (1, PROBE_TOKENS, self.d_model):
            raise InputError(
                f"{self.name}: the last block ({type(self.blocks[-1]).__name__}) returned "
                f"{tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__}, wanted a stream of "
                f"[batch, position, {self.d_model}]"
            )
        norms = [module for module, given, _ in calls if given is last]
        if norms:
            self.norm = norms[0]
        self._bring_back(self.norm)
        if not _close(self.norm(last), output):
            raise InputError(
                f"{self.name}: found {type(self.norm).__name__} behind the last block, and it does not give the body's "
                f"output: wanted one module between the last block and the head"
            )
        wanted = self.model(input_ids=ids, use_cache=False).logits
        found = self.logits(output)
        if not _close(found, wanted):
            self.logit_scale = float((found * wanted).sum() / (found * found).sum())
            if self.soft_cap is not None or not _close(self.logits(output), wanted):
                raise InputError(
                    f"{self.name}: the logits are not its head's ({type(self.head).__name__}), scaled or soft-capped "
                    f"by config.final_logit_softcapping: what else it does to them is not known here"
                )
        self.vocabulary: int = wanted.shape[-1]
        try:
            cache = DynamicCache()
            self.body(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
            kinds = sorted({type(layer).__name__ for layer in cache.layers if type(layer) is not DynamicLayer})
            resumed = self.body(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True).last_hidden_state
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{self.name}: found no way to go on from keys and values, wanted one: {error}") from error
        if kinds or len(cache.layers) != self.n_layers or not _close(resumed, output[:, -1:]):
            raise InputError(
                f"{self.name}: found a cache of {len(cache.layers)} layers ({', '.join(kinds) or 'keys and values'}) "
                f"that does not carry the prefix, wanted keys and values of {self.n_layers} attention blocks"
            )


def residual(output: Any) -> Any:
    """The residual stream in what a block returns: the tensor itself, or the first of a tuple (older families)."""
    return output[0] if isinstance(output, tuple | list) else output


def with_residual(output: Any, stream: Tensor) -> Any:
    """What a block returned, with its residual stream replaced."""
    return type(output)((stream, *output[1:])) if isinstance(output, tuple | list) else stream


def _find_body(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    inner = (child for child in model.children() if isinstance(child, PreTrainedModel))
    for body in (model.get_decoder(), model.base_model, next(inner, None)):
        if isinstance(body, nn.Module) and body is not model:
            return body
    raise InputError(f"{type(model).__name__}: found no inner model, wanted one that gives the residual stream")


def _find_blocks(body: nn.Module, count: int, name: str) -> tuple[nn.Module, nn.ModuleList]:
    """The module that owns the list of blocks, and the list: the outermost ModuleList of as many as the config says."""
    lists = {path: module for path, module in body.named_modules() if isinstance(module, nn.ModuleList)}
    fitting = [path for path, module in lists.items() if len(module) == count]
    depth = min((path.count(".") for path in fitting), default=0)
    outermost = [path for path in fitting if path.count(".") == depth]
    if len(outermost) != 1:
        sizes = ", ".join(f"{path} ({len(module)})" for path, module in lists.items()) or "none"
        raise InputError(
            f"{name}: found module lists {sizes}, wanted exactly one outermost list of {count} decoder blocks "
            f"(config.num_hidden_layers)"
        )
    path = outermost[0]
    return body.get_submodule(path.rpartition(".")[0]), lists[path]


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Equal to within rounding of the coarser type, relative to the largest entry."""
    tolerance = 3e-2 if wanted.dtype == torch.bfloat16 else 1e-4
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())
