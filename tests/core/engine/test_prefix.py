import pytest
import torch

from stages.core.engine import prefix
from stages.core.engine.prefix import run_prefix, takes_padding
from tests.core.engine.families import FAMILIES, tiny

ROWS = [(5, 9, 7, 4, 8), (6,), (), (7, 8, 9), (4, 4, 4, 5, 6), (9, 8, 7)]


@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_each_rows_keys_and_values_are_its_own_and_flush_right(tokens: int) -> None:
    decoder = tiny("qwen3")
    together = run_prefix(decoder, ROWS, tokens=tokens)
    assert together.padding.lengths.tolist() == [5, 1, 0, 3, 5, 3]
    for row, ids in enumerate(ROWS):
        if not ids:
            continue
        alone = run_prefix(decoder, [ids])
        for all_rows, one in zip(together.cache.layers, alone.cache.layers, strict=True):
            for name in ("keys", "values"):
                found = getattr(all_rows, name)[row, :, 5 - len(ids) :]
                torch.testing.assert_close(found, getattr(one, name)[0], rtol=1e-5, atol=1e-5)


def test_nothing_behind_the_last_blocks_keys_and_values_is_computed() -> None:
    decoder = tiny("qwen3")
    ran: list[bool] = []
    decoder.blocks[-1].get_submodule("mlp").register_forward_hook(lambda *_: ran.append(True))
    assert len(run_prefix(decoder, ROWS[:1]).cache.layers) == decoder.n_layers
    assert ran == []


def test_rows_without_tokens_have_an_empty_cache() -> None:
    empty = run_prefix(tiny("qwen3"), [(), ()])
    assert not empty.cache.layers
    assert empty.padding.arguments(1) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_rows_of_different_lengths(family: str) -> None:
    assert takes_padding(tiny(family))


def test_rotary_tables_that_depend_on_the_batch_keep_lengths_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not takes_padding(tiny("llama", rope_parameters=dynamic))
    monkeypatch.setattr(prefix, "read_on", lambda *_: (_ for _ in ()).throw(TypeError("position_ids")))
    assert not takes_padding(tiny("qwen3"))
