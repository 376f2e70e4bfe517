"""The vocabulary in pieces: the same numbers and gradients as at once, and no more memory than the budget allows."""

import pytest
import torch

from stages.core.evaluate.baselines import extremes
from stages.core.model.decoder import Decoder
from stages.core.reader import vocabulary
from stages.core.reader.reports import answer_losses
from stages.core.reader.training import slot_loss
from tests.core.reader.teaching import gradients, new_reader, prompts, settings


def results(decoder: Decoder) -> dict[str, torch.Tensor]:
    """What goes through the vocabulary, of ten rows."""
    reader = new_reader(decoder, settings(architecture="linear"))
    reader.trained.requires_grad_(True)
    read = gradients(reader, 10)
    slots = reader.read(read)
    names = [("New Delhi", "Oslo"), None] * 5
    named = slot_loss(reader, slots, names)
    tails = [decoder.continuation(word) for word in ("Lima", "New Delhi")]
    answer, row = answer_losses(reader, prompts(reader, [None, None], slots[:2]), tails, slots[:2])
    (named + answer.sum()).backward()
    grads = {f"grad of {name}": value.grad for name, value in reader.projector.named_parameters()}
    up, down = extremes(decoder, read[:, -1].numpy(), slice(None))
    cosines = reader.tokens.cosines(slots.felt)
    found = {"slot loss": named, "answer": answer, "row": row, "up": up, "down": down, "cosines": cosines}
    return found | {name: grad for name, grad in grads.items() if grad is not None}


def test_some_rows_and_some_tokens_at_a_time_change_no_number(small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
    wanted = results(small_decoder)
    tokens = len(small_decoder.tokenizer or ())
    monkeypatch.setattr(vocabulary, "LOGITS_BYTES", 3 * 4 * vocabulary.TENSORS * 3 * tokens)
    monkeypatch.setattr(vocabulary, "EMBEDDINGS_BYTES", 7 * 4 * small_decoder.d_model)
    assert vocabulary.in_parts(lambda at: (at.start, at.stop), 10, 3 * tokens) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    found = results(small_decoder)
    assert found.keys() == wanted.keys() and any(name.startswith("grad") for name in found)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_no_row_is_one_empty_part():
    assert vocabulary.in_parts(lambda at: (at.start, at.stop), 0, 5) == [(0, 0)]


def test_a_reader_has_no_embedding_matrix_of_its_own(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings())
    size = len(reader.tokens) * small_decoder.d_model
    own = [value for value in vars(reader.tokens).values() if isinstance(value, torch.Tensor)]
    assert all(value.numel() < size for value in [*own, *reader.trained.state_dict().values()] if value.dim() == 2)
