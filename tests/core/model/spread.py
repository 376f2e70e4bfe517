"""What a model that is spread over two devices measures, compared with the same model on the CPU; see test_spread.

torch's backward pass knows one stand-in device only. So what needs none runs on two of them, on a model loaded as
`open_model` loads it; and the rest on a model with a part on the stand-in and a part on the CPU, between which the same
hooks move what passes.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import dispatch_model
from torch import Tensor

from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.evaluate.fine_tuning import activation_moves
from stages.core.model import opening
from stages.core.model.decoder import Decoder
from stages.core.reader.card import Injection, Lora
from stages.core.reader.reader import Reader
from stages.core.reader.reports import answer_losses, answers_of, felt_by
from stages.core.steps.virtual_step import virtual_steps
from tests.core.engine.families import tiny_model
from tests.core.model.test_decoder import words
from tests.core.reader.teaching import REPLACE, new_reader, prompts, settings
from tests.core.reader.teaching import gradients as given
from tests.stand_in import OnDevice, install

LAYERS = [0, 2, 3]
ROWS = [((1, 4, 5, 6, 7, 8), (9, 10)), ((1, 4, 8), (10, 11, 5)), ((1, 7, 6, 8, 5), (9,)), ((5,), (11,))]
SAMPLES = [Sample(prompt, target, (4, 6)) for prompt, target in ROWS]
HOSTS = ["the capital of France is", None, "Paris is New York"]
KEPT = install()
OnDevice.data_ptr = lambda self: self.held.data_ptr()  # by which accelerate knows weights that are tied
PLACES = {0: torch.device("standin", 0), 1: torch.device("cpu")}
ADDED = Injection(how="add", block=2, at="every", scale=1.0)
Figures = dict[str, np.ndarray]


def steps(decoder: Decoder) -> Figures:
    """Virtual steps with what the model says before and after them."""
    given = np.random.default_rng(0).normal(size=(len(SAMPLES), len(LAYERS), decoder.d_model)).astype(np.float32)
    found: Figures = {}
    for batch in virtual_steps(
        decoder, SAMPLES, given, LAYERS, [0.5, 2.0], top_tokens=3, continuation_tokens=3, tokens=12
    ):
        for name, rows in vars(batch).items():
            for row, value in zip(batch.rows, rows, strict=True):
                found[f"{name} {row}"] = np.asarray(str(value) if name.startswith("continuation") else value)
    return found


def gradients(decoder: Decoder) -> Figures:
    """Gradients, and how fine-tuning all weights moves activations."""
    found = {"moves": activation_moves(decoder, SAMPLES[:1], LAYERS)}
    for batch in activation_gradients(decoder, SAMPLES, LAYERS, tokens=12):
        for name, rows in vars(batch).items():
            found |= {f"{name} {row}": np.asarray(value) for row, value in zip(batch.rows, rows, strict=True)}
    return found


def asking(decoder: Decoder, **changes: object) -> tuple[Reader, Tensor]:
    """An untrained reader, and the gradients that it reads in front of the hosts."""
    reader = new_reader(decoder, settings(width=4, **changes))
    return reader, given(reader, len(HOSTS))


def reports(decoder: Decoder) -> Figures:
    """What readers say, and how sure they are that there is something to say."""
    found: Figures = {}
    for how in (REPLACE, ADDED):
        for architecture in ("raw", "mlp"):
            reader, gradients = asking(decoder, architecture=architecture, injection=how)
            slots, confidence = felt_by(reader, gradients)
            name = f"{how.how} {architecture}"
            found[name] = np.array(answers_of(reader, HOSTS, reader.card.question, slots, 4))
            found[f"{name} confidence"] = confidence.detach().cpu().numpy()
    return found


def learning(decoder: Decoder) -> Figures:
    """Readers' losses, and the gradient of those at everything that learns."""
    found: Figures = {}
    for name, changes in (
        ("replace", {"injection": REPLACE}),
        ("add", {"injection": ADDED}),
        ("LoRA", {"injection": REPLACE, "lora": Lora(rank=2, alpha=4, learning_rate=1e-3)}),
    ):
        reader, gradients = asking(decoder, **changes)
        reader.trained.train().requires_grad_(True)
        slots = reader.read(gradients)
        losses, _ = answer_losses(reader, prompts(reader, HOSTS, slots), [[9, 10], [5], [8, 4, 2]], slots)
        losses.sum().backward()
        found[f"{name} losses"] = losses.detach().cpu().numpy()
        for parameter, value in reader.trained.named_parameters():
            if value.grad is not None:
                found[f"{name} {parameter}"] = value.grad.cpu().numpy()
    return found


def loaded(folder: Path) -> Decoder:
    """The model as `open_model` loads it, on two stand-in devices."""
    decoder = Decoder.load(folder, place=opening.placement)
    assert {str(each.device) for each in decoder.model.parameters()} == {"standin:0", "standin:1"}
    return decoder


def hooked(folder: Path) -> Decoder:
    """The model with what `loaded` has on the second device on the CPU."""
    plain = Decoder.load(folder)
    model = plain.model
    cards = opening.placement(model)
    assert isinstance(cards, dict)
    places: opening.DeviceMap = {name: PLACES[int(str(card))] for name, card in cards.items()}
    dispatch_model(model, places, main_device=PLACES[0], skip_keys="past_key_values")
    assert {each.device for each in model.parameters()} == {*PLACES.values()}
    vars(model)["hf_device_map"] = cards  # beside other devices, a part on the CPU is taken for one that is offloaded
    return Decoder(model, plain.tokenizer)


def compare(folder: Path, spread: Decoder, of: Callable[[Decoder], Figures]) -> None:
    """Raises where the spread model's figures are not the whole one's."""
    plain, found = of(Decoder.load(folder)), of(spread)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        if value.dtype.kind == "f":
            largest = float(np.abs(np.nan_to_num(value)).max())
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6 + 1e-5 * largest, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def main(families: list[str]) -> None:
    """Compares each of the families."""
    for family in families:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            model = tiny_model(family)
            model.save_pretrained(folder)
            tokenizer = words()
            tokenizer.add_tokens(["<slot>"])
            tokenizer.save_pretrained(folder)
            needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
            opening.best_device = lambda: PLACES[0]
            opening.cards = lambda needed=needed: {0: needed, 1: needed}
            for spread, figures in ((loaded, steps), (loaded, reports), (hooked, gradients), (hooked, learning)):
                compare(folder, spread(folder), figures)
        print(family)


if __name__ == "__main__":
    main(sys.argv[1:])
