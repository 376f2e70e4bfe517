"""LoRA on the verbaliser: it reads, and nothing else that the model does knows of it."""

import ast
import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from stages.core.data.facts import Domain
from stages.core.data.questions import Question
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.evaluate.fine_tuning import activation_moves
from stages.core.model import pocket
from stages.core.model.decoder import Decoder
from stages.core.model.names import make_tokenizer
from stages.core.model.section import Pocket
from stages.core.reader.card import Injection, Lora
from stages.core.reader.injection import Slots
from stages.core.reader.reader import Reader, load_reader, save_reader
from stages.core.reader.reports import answers_of, read_slots, write_tokens
from stages.core.reader.training import train
from stages.core.run.files import write_json
from stages.core.steps.virtual_step import virtual_steps
from tests.core.reader.teaching import QUESTION, curriculum, gradients, held_rows, new_reader, prompts, settings
from tests.tools.families import FAMILIES, tiny

HOSTS = [None, "The capital of Peru is", "It is known that the composer of Tosca is"]
LORA = Lora(rank=2, alpha=4, learning_rate=0.01)
WEIGHTS = "lora_seed_0.safetensors"


@pytest.fixture
def decoder(small_domains: list[Domain], small_questions: dict[str, Question], small_settings: Pocket) -> Decoder:
    """One of a test's own: adapters go into the model."""
    tokenizer = make_tokenizer(small_domains, small_questions)
    return Decoder(pocket.new_model(small_settings, tokenizer), tokenizer)


def lora_reader(decoder: Decoder, *, seed: int = 0, trained: bool = True) -> Reader:
    """With LoRA weights that do something, as if trained."""
    reader = new_reader(decoder, settings(lora=LORA, seeds=[seed]))
    assert reader.adapter is not None
    with torch.no_grad():
        for value in reader.adapter.weights.parameters():
            value.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed)) if trained else None
    reader.trained.eval()
    return reader


def logits(reader: Reader, slots: Slots | None) -> torch.Tensor:
    found = read_slots(reader, prompts(reader, HOSTS, slots), [()] * len(HOSTS), slots)
    return reader.decoder.logits(found).detach()


@torch.no_grad()
def slots_of(reader: Reader) -> Slots:
    return reader.read(gradients(reader, len(HOSTS)))


def answers(reader: Reader, tokens: int) -> list[str]:
    return answers_of(reader, HOSTS, QUESTION, slots_of(reader), tokens)


def measured(decoder: Decoder) -> list[torch.Tensor]:
    """Gradients, virtual steps, how a fine-tuning step moves activations, and the model's logits."""
    sample = Sample(tuple(decoder.tokens("The capital of Peru is")), tuple(decoder.continuation("Oslo")))
    gradient = next(activation_gradients(decoder, [sample], [0, 1])).gradient
    step = next(virtual_steps(decoder, [sample], gradient, [0, 1], [0.5], top_tokens=4, continuation_tokens=3))
    found = [torch.from_numpy(value) for value in (gradient, step.up_shifts, step.kl, step.target_after)]
    found.append(torch.from_numpy(activation_moves(decoder, [sample], [0, 1])))
    return [*found, decoder.model(input_ids=torch.tensor([sample.prompt])).logits.detach()]


def test_gradients_virtual_steps_and_the_model_itself_are_what_they_were_without(decoder: Decoder):
    before = measured(decoder)
    reader = lora_reader(decoder)
    for _ in range(2):  # before reports are read, and after
        assert all(torch.equal(*pair) for pair in zip(before, measured(decoder), strict=True))
        answers(reader, 4)


def test_what_is_read_without_injection_is_the_verbaliser_s_too(decoder: Decoder):
    """So "no injection" tells what LoRA alone makes of the prompt. An untrained one changes nothing."""
    plain = logits(new_reader(decoder, settings()), None)
    assert torch.equal(logits(lora_reader(decoder, trained=False), None), plain)
    assert not torch.allclose(logits(lora_reader(decoder), None), plain, atol=0.1)


@pytest.mark.parametrize("how", [None, Injection(how="add", block=0, at="last", scale=1.0)])
def test_what_is_written_is_what_is_likeliest_when_read(decoder: Decoder, how: Injection | None):
    reader = lora_reader(decoder)
    reader.card = reader.card if how is None else reader.card.model_copy(update={"injection": how})
    slots = slots_of(reader)
    asked = prompts(reader, HOSTS, slots)
    tails = write_tokens(reader, asked, slots, 5)
    found = decoder.logits(read_slots(reader, asked, tails, slots))
    for row, (prompt, tail) in enumerate(zip(asked, tails, strict=True)):
        assert tail == tuple(found[row, len(prompt.ids) - 1 :][: len(tail)].argmax(-1).tolist())


def test_training_teaches_projector_and_lora_and_leaves_the_model_alone(
    decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    wanted = settings(lora=LORA)
    reader, lessons = new_reader(decoder, wanted), curriculum(decoder, small_domains, wanted)
    whole = new_reader(decoder, wanted)  # a second one beside it
    state = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    projector = [value.clone() for value in reader.projector.parameters()]
    curve = train(reader, lessons, held_rows(lessons), wanted, tmp_path / "a", lambda steps: None)
    assert reader.adapter is not None
    for name, value in decoder.model.state_dict().items():
        assert torch.equal(value, state[name]) != (f".{reader.adapter.name}." in name), name
    assert not any(torch.equal(*pair) for pair in zip(projector, reader.projector.parameters(), strict=True))

    calls = iter(range(100))

    def die(steps: int) -> None:
        if next(calls) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(whole, lessons, held_rows(lessons), wanted, tmp_path / "b", die)
    resumed = new_reader(decoder, wanted)
    assert train(resumed, lessons, held_rows(lessons), wanted, tmp_path / "b", lambda steps: None) == curve
    for name, value in reader.trained.state_dict().items():
        assert torch.equal(value, resumed.trained.state_dict()[name]), name


def saved(reader: Reader, folder: Path) -> None:
    save_reader(reader, folder)
    write_json(folder / "projector.json", reader.card.model_dump(mode="json"))


def test_it_is_saved_beside_the_projector_and_comes_back_the_same(
    decoder: Decoder, tmp_path: Path, small_settings: Pocket
):
    reader = lora_reader(decoder)
    saved(reader, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"projector.json", "seed_0.safetensors", WEIGHTS}
    assert '"lora_on_the_verbaliser": {' in (tmp_path / "projector.json").read_text()
    assert isinstance(decoder.tokenizer, PreTrainedTokenizerFast)
    fresh = Decoder(pocket.new_model(small_settings, decoder.tokenizer), decoder.tokenizer)
    wanted = answers(reader, 5)
    for where in (decoder, fresh):  # beside the one that was saved, and in a model without any
        loaded = load_reader(where, tmp_path, "pocket", "0")
        slots = slots_of(loaded)
        assert torch.equal(logits(loaded, slots), logits(reader, slots))
        assert answers(loaded, 5) == wanted


def test_two_in_a_model_do_not_disturb_each_other(decoder: Decoder):
    first = lora_reader(decoder)
    wanted = logits(first, None)
    second = lora_reader(decoder, seed=1)
    assert not torch.allclose(logits(second, None), wanted) and torch.equal(logits(first, None), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_s_blocks_take_it(family: str):
    decoder = tiny(FAMILIES[family])
    reader = new_reader(decoder, settings(lora=LORA, slot_token=FAMILIES[family].special[-1], layers=[1, 2]))
    assert reader.adapter is not None
    inside = [name for name, _ in decoder.blocks.named_modules() if name.endswith("base_layer")]
    assert len(inside) == len(reader.adapter.layers) >= 4 * decoder.n_layers
    before = logits(reader, None)
    with torch.no_grad():
        for value in reader.adapter.weights.parameters():
            value.normal_()
    assert not torch.allclose(logits(reader, None), before)


def test_weights_that_do_not_fit_are_refused(decoder: Decoder, tmp_path: Path):
    saved(lora_reader(decoder), tmp_path)
    card = (tmp_path / "projector.json").read_text()
    (tmp_path / "projector.json").write_text(card.replace('"rank": 2', '"rank": 3'))
    message = re.escape(str(tmp_path / WEIGHTS)) + ": not the LoRA weights wanted here"
    with pytest.raises(ValueError, match=rf"{message} \(another model's layers, or another rank's\)"):
        load_reader(decoder, tmp_path, "pocket", "0")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=message):
        load_reader(decoder, tmp_path, "pocket", "0")


def test_peft_is_imported_only_where_it_is_used():
    for path in Path("stages").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else getattr(node, "names", [])
            assert not any(str(getattr(name, "name", name)).startswith("peft") for name in names), path
