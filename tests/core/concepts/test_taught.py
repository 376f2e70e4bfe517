"""What is taught is marked, and a soft prompt in front of it is PEFT's."""

import pytest
import torch
from peft import PromptTuningConfig, TaskType, get_peft_model

from stages.core.concepts.taught import laid_out, marked_losses
from stages.core.model.changes import speaker
from stages.core.model.decoder import Decoder
from tests.core.engine.families import tiny

ROWS = [((5, 6, 7), (8, 9)), ((5, 6), (10,)), ((5, 7, 7), (11, 12))]


@pytest.fixture
def decoder() -> Decoder:
    return tiny("qwen3")


def test_rows_are_laid_out_behind_one_another_and_padding_is_no_part_of_what_is_taught(decoder: Decoder):
    ids, part = laid_out(ROWS, decoder.device)
    for row, (prompt, taught) in enumerate(ROWS):
        assert ids[row][part[row] == 1].tolist() == list(taught)
        assert ids[row, : len(prompt) + len(taught)].tolist() == [*prompt, *taught]


@pytest.mark.parametrize("count", [1, 3])
def test_what_it_makes_the_model_say_is_what_peft_makes_of_the_same_vectors(decoder: Decoder, count: int):
    ids, part = laid_out(ROWS, decoder.device)
    front = torch.randn(count, decoder.d_model, generator=torch.Generator().manual_seed(0))
    losses, likeliest = marked_losses(decoder, ids, part == 1, front)
    settings = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=count)
    soft = get_peft_model(tiny("qwen3").model, settings)  # type: ignore[arg-type]
    (vectors,) = (each for each in soft.parameters() if each.requires_grad)
    vectors.data.copy_(front)
    logits = speaker(soft)(ids)[:, :-1][part[:, 1:] == 1]
    wanted = torch.nn.functional.cross_entropy(logits, ids[part == 1], reduction="none")
    torch.testing.assert_close(losses, wanted)
    assert likeliest.tolist() == (logits.argmax(-1) == ids[part == 1]).tolist()
