"""The decisive experiment, from end to end on two tiny models: one with tied and one with untied embeddings.

Each has learned the facts of the tiny world and nothing of slots. Each is the other's foreign reader. The figures of
such models mean nothing; that all of them are there is what is tested.
"""

import itertools
import json
from pathlib import Path

import polars as pl
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from stages.core.data.facts import read_domain
from stages.tools import cli
from stages.tools.dependencies import differences
from stages.tools.preset import names, read_preset
from tests.pipeline import tiny
from tests.pipeline.warm import Warm
from tests.tools.families import FAMILIES, TEXT

PRESETS = ("qwen3-4b-instruct", "olmo-2-7b")
ENTITIES, RELATIONS = 100, 10
"""So many, at least, are to be asked about in two-hop questions of a Hub model."""


def sentences(domains: list[str]) -> list[tuple[str, str]]:
    """Every prompt of the facts, and its answer."""
    return [
        (template.format(subject=fact.subject), f" {fact.answer}")
        for name in domains
        for relation in read_domain(name).relations.values()
        for fact in relation.facts
        for template in relation.templates
    ]


def tokenizer_of(preset: str, texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose merges are of these texts, with the family's special tokens and chat turns."""
    family, tokenizer = FAMILIES[preset], Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in family.special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=family.eos, pad_token=family.eos, chat_template=family.template
    )


def save_taught(preset: str, domains: list[str], folder: Path) -> None:
    """A tiny model of the preset's family that knows these facts."""
    rows = sentences(domains)
    tokenizer = tokenizer_of(preset, [prompt + answer for prompt, answer in rows])
    settings = {**TEXT, "hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.05}
    settings |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    settings |= {"head_dim": 16, **dict(FAMILIES[preset].settings), "tie_word_embeddings": read_preset(preset).tied}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(FAMILIES[preset].kind, **settings))
    encoded = [[*tokenizer.encode(prompt + answer), tokenizer.eos_token_id] for prompt, answer in rows]
    width = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in encoded])
    labels = ids.clone()
    for row, (prompt, _) in enumerate(rows):
        labels[row, : len(tokenizer.encode(prompt))] = -100
        labels[row, len(encoded[row]) :] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.tensor(torch.inf)
    for _ in range(80):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        if loss.item() < 0.02:
            break
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1, loss
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny repository with both models in its folder models/."""
    root = tmp_path_factory.mktemp("decisive") / "repository"
    tiny.make_repository(root)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        for preset in PRESETS:
            save_taught(preset, list(tiny.DOMAINS), Path("models") / preset)
    return root


@pytest.mark.parametrize("preset", PRESETS)
def test_it_runs_from_end_to_end(
    preset: str, taught: Path, warm_python: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root, other = tiny.copied(taught, tmp_path / "repository"), next(name for name in PRESETS if name != preset)
    monkeypatch.chdir(root)
    cli.main(["preset", preset, "--decisive", "--apply"])
    slot_token = read_preset(other).params["projector.slot_token"]
    foreign = {"source": f"models/{other}", "revision": None, "slot_token": slot_token}
    tiny.edit_params(
        root, model__source=f"models/{preset}", model__dtype="float32", peers={"foreign": foreign},
        gradients__layers=[1, 3], virtual_step__layer=1, projector__layers=[3], projector__steps=20,
        projector__batch=8, projector__report_batch=4, projector__validation_batch=8, evaluation__gradients=2,
        evaluation__fine_tuned=1, evaluation__edits=2, evaluation__bootstrap=20, evaluation__report_tokens=12,
    )  # fmt: skip
    differences(root, write=True)
    by_domain = itertools.product(("prompts", "gradients", "virtual_step", "labels"), tiny.DOMAINS)
    for stage in (("model",), ("peers",), *by_domain, ("projector",), ("evaluation",), ("grounding",), ("report",)):
        warm_python.run(root, *stage)
    card = json.loads((root / "data/model/model.json").read_text())
    assert card["source"] == "folder" and card["architecture"].lower().startswith(FAMILIES[preset].kind)
    found = json.loads((root / "data/evaluation/metrics.json").read_text())
    assert set(found["questions"]) == {"identity", "notice"}
    for forms in found["questions"].values():
        assert all({"value", "chance"} <= forms[form]["all"].keys() for form in ("trained", "held_out"))
    knowledge = found["knowledge"]
    assert set(knowledge["main"]) == {"raw", "freed", "named", "shuffled", "nearest"}
    assert set(knowledge["foreign"]) == {"foreign"} and knowledge["foreign"]["foreign"]["all"]["rows"] > 0
    assert found["edits"]["edits"] == 2 and found["edits"]["learnt"]["value"] == 1
    real = json.loads((root / "data/grounding/metrics.json").read_text())["real"]
    assert real["steps"] == 4 and {"reading", "lens", "unchanged"} < real["paraphrase"].keys()
    assert found["floor"]["target_accuracy"]["value"] >= 0 and found["model"]["fact_accuracy"] > 0.9
    reports = pl.read_parquet(root / "data/evaluation/reports.parquet")
    assert {"real", "bias_only", "fine_tuned"} <= set(reports["condition"])
    assert (root / "data/report/index.html").is_file()


@pytest.mark.parametrize("preset", names())
def test_it_reads_the_last_layer_stores_lower_ones_and_asks_no_pocket_model(preset: str):
    found = read_preset(preset)
    params, last = found.decisive().params, found.blocks - 1
    assert params["projector.layers"] == [last] and params["projector.learns_from"] == "words"
    assert params["gradients.layers"][-1] == last and found.params["virtual_step.layer"] in params["gradients.layers"]
    assert sorted(set(params["gradients.layers"])) == params["gradients.layers"]
    assert params["peers"]["foreign"]["source"] != found.params["model.source"] == params["model.source"]


def test_the_presets_have_tied_and_untied_embeddings():
    assert {read_preset(name).tied for name in names()} == {True, False}


def test_two_hop_questions_are_about_so_many_names_and_relations(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tiny.ROOT)
    relations = [relation for name in documented() for relation in read_domain(name).relations.items()]
    answers = {fact.answer for _, relation in relations for fact in relation.facts}
    asked = [(name, fact.subject) for name, relation in relations for fact in relation.facts if fact.subject in answers]
    assert len({subject for _, subject in asked}) >= ENTITIES and len({name for name, _ in asked}) >= RELATIONS


def documented() -> list[str]:
    """The domains that there are."""
    return [path.stem for path in sorted((tiny.ROOT / "data/facts").glob("*.yaml"))]
