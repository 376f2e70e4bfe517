"""Gathering: rows of many stores are read when asked for, the same whatever the shards; what doesn't fit is refused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

from stages.core.data.gathering import (
    BLOCK_ROWS,
    TAUGHT,
    Gathered,
    Means,
    blocks,
    gather,
    held_out_names,
    hosts,
    taught,
)  # fmt: skip
from stages.core.data.gradient_store import ID_BYTES, shards, write_store
from stages.core.data.tables import LABELS, PROMPTS, write_table
from stages.core.run.files import write_json

SIZES = {"music": 700, "history": 90}
LAYERS, PLACES, WIDTH = [1, 3], ["target_1", "target_2"], 8
RUN = {"model": "tiny", "commit": "0", "hook_point": "residual", "loss": "nats", "sign": "gradient"}
RUN |= {"layers": LAYERS, "places": PLACES}


def numbers(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, len(PLACES), len(LAYERS), WIDTH)).astype(np.float32)


def made(domain: str) -> dict[str, np.ndarray]:
    rows = SIZES[domain]
    vectors = {"gradient": numbers(rows, rows), "activation": numbers(rows + 1, rows)}
    return vectors | {name: np.zeros(rows) for name in ("target_logprob", "answer_logprob", "top_token")}


def make(domain: str, **changes: object) -> None:
    rows = SIZES[domain]
    ids = [f"{domain[0]}{row:0{ID_BYTES - 1}x}" for row in range(rows)]
    columns = {name: [f"{name} {row % 7}" for row in range(rows)] for name in PROMPTS} | {"prompt_id": ids}
    write_table(Path(f"data/prompts/{domain}.parquet"), pl.DataFrame(columns), PROMPTS)
    labels = pl.DataFrame({"prompt_id": ids[::2]}).with_columns(
        [pl.lit(1.0 if name == "confidence" else f"{name} said").alias(name) for name in LABELS if name != "prompt_id"]
    )
    write_table(Path(f"data/labels/{domain}.parquet"), labels, LABELS)
    whole = made(domain)
    pieces = [
        {name: values[part] for name, values in whole.items()}
        for part in shards(rows, len(PLACES) * len(LAYERS), WIDTH)
    ]
    write_store(Path(f"data/gradients/{domain}.zarr"), pieces, ids, 23, RUN | changes)


@pytest.fixture(params=[1, 32 * 2**20], ids=["small shards", "large shards"])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gathered:
    monkeypatch.setattr("stages.core.data.gradient_store.SHARD_BYTES", request.param)
    monkeypatch.chdir(tmp_path)
    write_json(Path("data/model/model.json"), {"id": "tiny", "commit": "0"})
    for domain in SIZES:
        make(domain)
    return gather(list(SIZES), LAYERS)


def test_any_rows_in_any_order_are_those_of_the_stores_one_after_another(data: Gathered):
    rows = np.array([789, 3, 699, 700, 3, 65, 64, 63, 400])
    for name in ("gradient", "activation"):
        whole = np.concatenate([made(domain)[name] for domain in SIZES])[:, 0]
        vectors = getattr(data, name)
        assert vectors.shape == whole.shape
        np.testing.assert_array_equal(vectors[rows], whole[rows])
        np.testing.assert_array_equal(np.concatenate(list(blocks(vectors, np.arange(790)))), whole)
        assert vectors[rows[:0]].shape == (0, len(LAYERS), WIDTH)
    assert data.rows["row"].to_list() == list(range(790)) and data.rows["label_moved_to"].null_count() == 395


def test_layers_are_taken_by_number_and_blocks_are_of_one_size(data: Gathered):
    upper = gather(list(SIZES), LAYERS[1:]).gradient
    rows = np.arange(0, 790, 1)
    np.testing.assert_array_equal(upper[rows], data.gradient[rows][:, 1:])
    assert [len(block) for block in blocks(upper, rows)] == [BLOCK_ROWS, 790 - BLOCK_ROWS]


def test_several_places_are_given_one_after_another_each_with_its_layers(data: Gathered):
    both = gather(list(SIZES), LAYERS[::-1], places=PLACES[::-1])
    rows = np.array([789, 3, 700])
    whole = np.concatenate([made(domain)["activation"] for domain in SIZES])
    assert both.activation.shape == (790, 4, WIDTH) and both.places == ("target_2", "target_1")
    np.testing.assert_array_equal(both.activation[rows], whole[rows][:, ::-1, ::-1].reshape(3, 4, WIDTH))
    assert data.places == ("target_1",)


def test_a_place_or_layer_that_a_store_lacks_is_refused(data: Gathered):
    with pytest.raises(ValueError, match=r"music.zarr: places: found \['target_1', 'target_2'\], wanted 'subject' too"):
        gather(list(SIZES), LAYERS, places=["target_1", "subject"])
    with pytest.raises(ValueError, match=r"projector.layers: found 2, data/gradients/music.zarr holds \[1, 3\]"):
        gather(list(SIZES), [2])


def test_the_columns_that_are_kept_hold_the_same_words(data: Gathered):
    lean = gather(list(SIZES), LAYERS, TAUGHT).rows
    assert lean.columns == ["row", *TAUGHT]
    assert lean.cast(dict.fromkeys(TAUGHT, pl.String)).equals(data.rows.select("row", *TAUGHT))


def test_means_by_answer_are_those_of_the_rows_at_once(data: Gathered):
    means = Means.of(data.gradient, data.rows, ["answer 3", "answer 4", "nobody's"])
    whole, answers = data.gradient[np.arange(790)], data.rows["answer"].to_numpy()
    assert set(means.by_name) == {"answer 3", "answer 4"}
    np.testing.assert_allclose(means.by_name["answer 3"], whole[answers == "answer 3"].mean(0), atol=1e-6)
    np.testing.assert_allclose(means.overall, whole.mean(0), atol=1e-6)


def test_a_nan_is_refused_when_its_row_is_read_and_the_store_and_the_prompt_are_named(data: Gathered):
    data.activation[np.arange(790)]  # the shards are those that were written; from here on only numbers are checked
    array = zarr.open_group("data/gradients/music.zarr", mode="r+")["activation"]
    assert isinstance(array, zarr.Array)
    array[431, 0, 1, 2] = np.nan
    assert len(data.activation[np.array([430, 432])]) == 2
    with pytest.raises(
        ValueError, match=rf"music.zarr: activation of prompt m{431:0{ID_BYTES - 1}x}: NaN .* 1 such row"
    ):
        data.activation[np.arange(790)]


@pytest.mark.parametrize(("attribute", "value"), [("commit", "1"), ("sign", "update direction")])
def test_a_store_of_another_run_is_refused(data: Gathered, attribute: str, value: str):
    SIZES_WITH_OTHER = list(SIZES)
    make(SIZES_WITH_OTHER[1], **{attribute: value})
    with pytest.raises(ValueError, match=f"history.zarr: {attribute}: found '{value}', wanted .* of another run"):
        gather(SIZES_WITH_OTHER, LAYERS)


def test_a_store_of_other_prompts_is_refused(data: Gathered):
    Path("data/gradients/music.zarr").rename("data/gradients/other")
    Path("data/gradients/history.zarr").rename("data/gradients/music.zarr")
    with pytest.raises(ValueError, match=r"music.zarr: its 90 rows are not the 700 prompts of the table before it"):
        gather(list(SIZES), LAYERS)


def labelled_rows() -> pl.DataFrame:
    columns = ("split", "held_out", "target", "answer", "label_moved_to", "label_moved_from", "prompt", "domain")
    rows = [
        ("train", "none", "Lima", "Oslo", "Lima", "Oslo", "a", "geography"),
        ("train", "none", "Oslo", "Lima", "Oslo", "Lima", "b", "geography"),
        ("train", "none", "Lima", "Oslo", "Lima", "Tokyo", "c", "music"),  # a label that says a held-out answer
        ("train", "none", "Lima", "Oslo", "Quito", "Oslo", "d", "music"),  # or a held-out target
        ("train", "none", "Lima", "Oslo", "Lima", "", "e", "music"),
        ("train", "none", "Lima", "Oslo", None, None, "e", "music"),
        ("train", "none", "Lima", "Oslo", "Lima", "Lima", "e", "music"),
        ("validation", "none", "Lima", "Oslo", "Lima", "Oslo", "f", "music"),
        ("test", "target", "Quito", "Oslo", "Quito", "Oslo", "g", "geography"),
        ("test", "answer", "Lima", "Tokyo", "Lima", "Tokyo", "h", "geography"),
        ("test", "kind", "Lyra", "Orion", "Lyra", "Orion", "i", "astronomy"),
        ("test", "kind", "Draco", None, "Draco", "Lyra", "i", "astronomy"),
        ("test", "subject", "Bern", "Riga", "Bern", "Riga", "j", "geography"),
        ("test", "template", "Bern", "Riga", "Bern", "Riga", "k", "geography"),
    ]
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_held_out_names_are_the_targets_and_answers_that_are_the_reason():
    assert held_out_names(labelled_rows()) == {"Quito", "Tokyo", "Lyra", "Orion", "Draco"}


@pytest.mark.parametrize("lazy", [True, False])
def test_what_is_taught_has_a_usable_label_without_a_held_out_name(lazy: bool):
    rows = labelled_rows()
    found = (taught(rows.lazy(), "train").collect() if lazy else taught(rows, "train"))["prompt"].to_list()
    assert found == ["a", "b"] and taught(rows, "validation")["prompt"].to_list() == ["f"]
    categories = rows.with_columns(pl.col(pl.String).cast(pl.Categorical))
    assert taught(categories, "train")["prompt"].to_list() == found


@pytest.mark.usefixtures("data")
def test_hosts_are_the_distinct_prompts_of_a_split_with_nothing_held_out_by_domain():
    assert hosts(SIZES, "train") == {}
    path = Path("data/prompts/history.parquet")
    train, free = pl.col("prompt") != "prompt 3", pl.col("prompt") != "prompt 5"
    write_table(
        path,
        pl.read_parquet(path).with_columns(
            split=pl.when(train).then(pl.lit("train")).otherwise(pl.lit("test")),
            held_out=pl.when(free).then(pl.lit("none")).otherwise(pl.lit("target")),
        ),
        PROMPTS,
    )
    found = hosts(SIZES, "train")
    assert {name: prompts.to_list() for name, prompts in found.items()} == {
        "history": [f"prompt {row}" for row in (0, 1, 2, 4, 6)]
    }
