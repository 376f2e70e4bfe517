"""Every mistake that issue 2 names, through the real command: what is said, and that nothing is touched by it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from safetensors.torch import load_file, save_file

from stages.core.run.stage import run
from tests.pipeline import tiny

NAME = "music"


def stage(name: str, *arguments: str) -> None:
    """Runs `python -m stages.<name>` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"stages.{name}", *arguments])
        run(import_module(f"stages.{name}").main)


def files(root: Path) -> dict[str, bytes]:
    """Every file below `root`, the scratch folder excepted."""
    paths = (path for path in sorted(root.rglob("*")) if path.is_file())
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in found.items() if not name.startswith(".scratch/")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small domains and a model that has barely begun to learn, as far as the labels."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copy(tiny.ROOT / "params.yaml", root)
    shutil.copytree(tiny.ROOT / "data/questions", root / "data/questions")
    for name in tiny.DOMAINS:
        tiny.write_facts(root, name, tiny.small_facts(name))
    tiny.edit_params(
        root,
        domains=list(tiny.DOMAINS),
        labels__lexicon=list(tiny.DOMAINS),
        model__pocket__d_model=16,
        model__pocket__layers=2,
        model__pocket__heads=2,
        model__pocket__steps=2,
        model__pocket__batch=4,
        model__pocket__slot_batch=4,
        model__pocket__asked=["capital"],
        held_out__kinds=[],
        prompts__targets=2,
        gradients__layers=[0, 1],
        virtual_step__layer=1,
        projector__layers=[1],
    )
    tiny.declare(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stage("model")
        for name in tiny.DOMAINS:
            for matrix in ("prompts", "gradients", "virtual_step", "labels"):
                stage(matrix, name)
        for output in ("projector", "evaluation"):  # never made: that they stay as they are is all that counts
            Path("data", output).mkdir()
            Path("data", output, "old").write_text("old")
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; the working directory."""
    root = shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(root)
    return root


def facts(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Changes the relation `composer` (the first) of the facts of music."""

    def spoil(root: Path) -> None:
        content = tiny.small_facts(NAME)
        change(next(iter(content["relations"].values())))
        tiny.write_facts(root, NAME, content)

    return spoil


def params(**changes: Any) -> Callable[[Path], None]:
    return lambda root: tiny.edit_params(root, **changes)


def rename_param(root: Path) -> None:
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("  step_sizes: [0.5", "  stepsizes: [0.5", 1))


def folder(**contents: str) -> Callable[[Path], None]:
    """A folder `mine` that holds these files, and params.yaml names it."""

    def spoil(root: Path) -> None:
        (root / "mine").mkdir()
        for name, text in contents.items():
            (root / "mine" / f"{name}.json").write_text(text)
        tiny.edit_params(root, model__source="mine")

    return spoil


STORE = Path("data/gradients/music.zarr")
WORD = "Nutcracker"


def cut_short(root: Path) -> None:
    shard = next((root / STORE / "gradient/c").rglob("0"))
    shard = shard if shard.is_file() else next(path for path in shard.rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-50])


def lose_shard(root: Path) -> None:
    shutil.rmtree(root / STORE / "activation/c")


def trained(prompts: pl.DataFrame) -> int:
    """The number of a row that a projector is trained on."""
    return prompts.with_row_index().filter(split="train", held_out="none")["index"][0]


def nan(root: Path) -> None:
    array = zarr.open_group(root / STORE, mode="r+")["gradient"]
    assert isinstance(array, zarr.Array)
    array[trained(pl.read_parquet(root / f"data/prompts/{NAME}.parquet")), 0, 1, 3] = np.nan


def another_run(root: Path) -> None:
    zarr.open_group(root / STORE, mode="r+").attrs["commit"] = "another"


def nan_word(root: Path, word: str = WORD) -> None:
    """The model reads NaN in a word: so is every gradient of the prompts that hold it, and of no others."""
    path, config = root / "data/model/model.safetensors", root / "data/model/config.json"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    vocabulary = json.loads((root / "data/model/tokenizer.json").read_text())["model"]["vocab"]
    weights["model.embed_tokens.weight"][vocabulary[word]] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))


FACTS = r"data/facts/music\.yaml: relations\.\w+"
PROJECTOR, VIRTUAL = ("projector",), ("virtual_step", NAME)
# What is done, the command, and what it says.
MISTAKES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "an unknown domain": (
        lambda root: None, ("prompts", "sport"),
        r"params.yaml: domains: unknown domain 'sport': no file data/facts/sport.yaml "
        r"\(domains with facts: geography, music\)",
    ),
    "an unknown domain in the list": (
        params(domains=["music", "sport"]), ("model",), r"params.yaml: domains: unknown domain 'sport'",
    ),
    "an unknown domain in the lexicon": (
        params(labels__lexicon=["sport"]), ("labels", NAME), r"params.yaml: labels.lexicon: unknown domain 'sport'",
    ),
    "an unknown domain held out": (
        params(projector__held_out_domains=["sport"]), PROJECTOR,
        r"params.yaml: projector.held_out_domains: 'sport' is not among domains \['geography', 'music'\]",
    ),
    "a domain that no prompts were made of": (
        lambda root: None, ("gradients", "sport"),
        r"data/prompts/sport.parquet: no such file; run the stage that writes it",
    ),
    "a facts file with a missing field": (
        facts(lambda relation: relation["facts"][3].pop("answer")), ("prompts", NAME),
        FACTS + r"\.facts\.3\.answer: missing: wanted this key",
    ),
    "a facts file with a missing field, of the model": (
        facts(lambda relation: relation.pop("source")), ("model",), FACTS + r"\.source: missing: wanted this key",
    ),
    "a duplicate fact": (
        facts(lambda relation: relation["facts"].append(relation["facts"][0])), ("prompts", NAME),
        FACTS + r"\.facts: duplicate fact: subject '.+' stands twice",
    ),
    "an empty relation": (
        facts(lambda relation: relation.update(facts=[])), ("prompts", NAME),
        FACTS + r"\.facts: the relation is empty: wanted at least one \{subject, answer\}",
    ),
    "a misspelt param": (
        rename_param, VIRTUAL,
        r"params.yaml: virtual_step.step_sizes: missing: wanted this key\n"
        r"params.yaml: virtual_step.stepsizes: unknown key \(misspelt, or of another section\) "
        r"\(found \[0.5, 1.0, 2.0\]\)",
    ),
    "a param of the wrong type": (
        params(prompts__targets="four"), ("prompts", NAME),
        r"params.yaml: prompts.targets: wanted a valid integer \(found 'four'\)",
    ),
    "a param out of range": (
        params(prompts__test=1.5), ("prompts", NAME), r"params.yaml: prompts.test: wanted less than 1 \(found 1.5\)",
    ),
    "a model folder that is empty": (
        folder(), ("model",),
        r"params.yaml: model.source: mine: found no causal language model, "
        r"wanted a folder in Hugging Face format \(config.json",
    ),
    "a model folder without weights": (
        folder(config='{"model_type": "qwen3"}'), ("model",),
        r"params.yaml: model.source: mine: found no causal language model, .*: .*model.safetensors",
    ),
    "a model folder that isn't there": (
        params(model__source="./mine"), ("model",),
        r"params.yaml: model.source: no folder ./mine; wanted 'pocket', a Hub id or a local folder",
    ),
    "data/model without its card": (
        lambda root: (root / "data/model/model.json").unlink(), ("gradients", NAME),
        r"data/model/model.json: no such file; run the stage that writes it \(dvc repro\)",
    ),
    "a layer out of range": (
        params(gradients__layers=[0, 2]), ("gradients", NAME), r"params.yaml: gradients.layers: found 2, wanted 0 to 1",
    ),
    "a layer below zero": (
        params(gradients__layers=[-1]), ("gradients", NAME),
        r"params.yaml: gradients.layers.0: wanted greater than or equal to 0 \(found -1\)",
    ),
    "a layer that isn't stored": (
        params(virtual_step__layer=3), VIRTUAL,
        r"params.yaml: virtual_step.layer: found 3, wanted one of gradients.layers \[0, 1\]",
    ),
    "a layer that isn't stored, of the projector": (
        params(projector__layers=[3]), PROJECTOR,
        r"params.yaml: projector.layers: found 3, data/gradients/geography.zarr holds \[0, 1\]; "
        r"add it to gradients.layers",
    ),
    "a store cut short": (
        cut_short, VIRTUAL,
        r"data/gradients/music.zarr: gradient: a shard can't be read .*: the store was cut short; delete",
    ),
    "a store that lacks a shard": (
        lose_shard, PROJECTOR,
        r"data/gradients/music.zarr: activation: found 0 of 1 shards: the store was cut short; delete",
    ),
    "NaN in a stored gradient": (
        nan, VIRTUAL,
        r"data/gradients/music.zarr: gradient of prompt {trained}: NaN or infinite, wanted numbers; 1 such rows",
    ),
    "NaN in a stored gradient, of the projector": (
        nan, PROJECTOR,
        r"data/gradients/music.zarr: gradient of prompt {trained}: NaN or infinite, wanted numbers; 1 such rows",
    ),
    "a store of another run": (
        another_run, PROJECTOR,
        r"data/gradients/music.zarr: commit: found 'another', wanted '\w+' as in data/model/model.json: the store is "
        r"of another run; run dvc repro",
    ),
    "NaN in a computed gradient": (
        nan_word, ("gradients", NAME),
        r"data/prompts/music.parquet: prompt {word} \('.*Nutcracker.*' -> '.*'\): "
        r"loss or gradient is not finite; \d+ such rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_touches_nothing(mistake: str, root: Path):
    spoil, command, message = MISTAKES[mistake]
    prompts = pl.read_parquet(f"data/prompts/{NAME}.parquet")
    spelt = prompts.filter(pl.col("prompt").str.contains(WORD))["prompt_id"]
    message = message.replace("{trained}", prompts["prompt_id"][trained(prompts)]).replace("{word}", spelt[0])
    spoil(root)
    before = files(root)
    with pytest.raises(SystemExit, match=rf"(?s)^error: {message}") as caught:
        stage(*command)
    assert isinstance(caught.value.code, str)  # which python prints to stderr, with exit code 1
    assert caught.value.code.count("\n") == message.count(r"\n")
    assert files(root) == before


def test_the_prompt_that_is_named_is_the_right_one_in_a_later_shard(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stages.core.data.gradient_store.SHARD_BYTES", 1)
    prompts = pl.read_parquet(f"data/prompts/{NAME}.parquet")
    assert len(prompts) > 64
    word = prompts["subject"][-1].split()[-1]
    spelt = prompts.with_row_index().filter(pl.col("prompt").str.contains(word))
    assert spelt["index"][0] >= 64
    nan_word(root, word)
    with pytest.raises(SystemExit, match=rf"prompt {spelt['prompt_id'][0]} \('.*{word}.*; {len(spelt)} such rows"):
        stage("gradients", NAME)


def test_the_command_itself_says_it_in_one_line_with_exit_code_1(root: Path):
    tiny.edit_params(root, prompts__targets="four")
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "stages.prompts", NAME], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "error: params.yaml: prompts.targets: wanted a valid integer (found 'four')\n"


def test_adding_a_domain_changes_no_row_of_another(root: Path):
    before = {name: content for name, content in files(root).items() if name.startswith("data/prompts/music")}
    tiny.write_facts(root, "history", tiny.small_facts("history"))
    tiny.edit_params(root, domains=["geography", "music", "history"])
    stage("prompts", NAME)
    assert before and before.items() <= files(root).items()
