"""Turns up or down what a subspace is taught, while the transformers Trainer trains.

from gradaware import GradientScale
trainer = Trainer(..., callbacks=[GradientScale(decoder, bases, alpha=0)])
"""

from contextlib import ExitStack
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from ..core.concepts.scaling import Bases, one_a_block, scaled_gradients
from ..core.model.decoder import Decoder
from ..core.run.errors import InputError


class GradientScale(TrainerCallback):
    """`scaled_gradients` from the beginning to the end of a training.

    The model in training has to have the architecture and width of the one that the bases were made for.
    """

    def __init__(self, decoder: Decoder, bases: Bases, alpha: float = 0.0) -> None:
        """`decoder`: the model that `bases` were made for.

        Raises:
            InputError: the bases do not fit the model.
        """
        for basis in one_a_block(bases, decoder.n_layers):
            if basis.shape[-1] != decoder.d_model:
                raise InputError(
                    f"bases: found directions of width {basis.shape[-1]}, wanted {decoder.d_model} ({decoder.name})"
                )
        self.decoder, self.bases, self.alpha = decoder, bases, alpha
        self._hooks = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Enters the context.

        Raises:
            InputError: the model in training is another, or alpha is below 0.
        """
        self._hooks.enter_context(scaled_gradients(blocks_of(kwargs["model"], self.decoder), self.bases, self.alpha))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves the context."""
        self._hooks.close()


def blocks_of(model: PreTrainedModel, studied: Decoder) -> Any:
    """The decoder blocks of the model in training.

    Raises:
        InputError: it is of another architecture or width than the model under study.
    """
    config = model.config.get_text_config(decoder=True)
    if type(model) is not type(studied.model) or config.hidden_size != studied.d_model:
        raise InputError(
            f"found a {type(model).__name__} of width {config.hidden_size}, wanted the model that the projector was "
            f"made for: a {type(studied.model).__name__} of width {studied.d_model}"
        )
    path = next(name for name, module in studied.model.named_modules() if module is studied.blocks)
    return model.get_submodule(path)
