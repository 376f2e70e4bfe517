"""A model larger than one card: over several it measures what it measures on one; on too few it is refused at once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from stages.core.model import opening, ranks
from stages.core.model.decoder import Decoder
from stages.core.run.errors import InputError
from stages.core.run.params import Section
from tests.core.engine.families import tiny_model
from tests.core.model.test_decoder import words

ROOT = Path(__file__).parents[3]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny model of 83 kB; its weights are not readable."""
    tiny_model("llama").save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    return tmp_path


def have(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    """As many cards as there are sizes, of so many free bytes."""
    monkeypatch.setattr(opening, "best_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(opening, "cards", lambda: dict(enumerate(free)))


def test_gradients_steps_and_reading_of_a_spread_model_are_those_of_a_whole_one() -> None:
    families = ["qwen3", "gemma2", "gpt2", "opt"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.model.spread", *families],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == families


def test_a_model_that_fits_no_card_is_refused_before_its_weights_are_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 30_000, 40_000)
    with pytest.raises(
        InputError,
        match=rf"^model: {saved}: found \d+ parameters of torch.float32, 0.0 GB, and free are cuda:0 0.0 GB, cuda:1 "
        r"0.0 GB: wanted weights in 90% of what is free: end what else runs there, set model.dtype: bfloat16",
    ):
        Decoder.load(saved, place=opening.placement)


def test_a_model_goes_on_one_card_where_it_fits_and_else_evenly_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    have(monkeypatch, 2 * needed, 2 * needed)
    assert opening.placement(model) == torch.device("cuda", 0)
    have(monkeypatch, needed, needed, needed)
    found = opening.placement(model)
    assert isinstance(found, dict)
    blocks = [str(found[f"model.layers.{layer}"]) for layer in range(4)]
    assert blocks == sorted(blocks) and {*found.values()} == {0, 1, 2}


def test_a_stage_starts_no_ranks_for_a_model_that_takes_all_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    worked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(ranks, "launch", lambda *_: pytest.fail("started ranks"))
    monkeypatch.setattr(ranks, "read_card", lambda: type("Card", (), {"weights": lambda self: 100})())
    monkeypatch.setattr(ranks, "fits_one_card", lambda weights: weights < 100)
    ranks.shared("stages.gradients", Section(), lambda: worked.append(True))
    assert worked


def test_a_tensor_parallel_model_is_refused_by_name() -> None:
    model = tiny_model("llama")
    distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        weight = model.get_parameter("lm_head.weight")
        whole = nn.Parameter(distribute_tensor(weight, init_device_mesh("cpu", (1,))))
        model.get_submodule("lm_head").register_parameter("weight", whole)
        with pytest.raises(InputError, match=r"LlamaForCausalLM: found tensors cut in parts \(tp_plan\), wanted whole"):
            Decoder(model)
    finally:
        distributed.destroy_process_group()
