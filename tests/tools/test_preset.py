"""Presets: what they change and what they keep; and that what they say holds for tiny models of the families.

The models themselves can't be downloaded here: random weights, byte-level tokenizers, real chat templates.
"""

import re
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from stages.core.data.questions import FELT, OPPOSITE
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.reader.injection import Slots
from stages.core.reader.reader import Reader
from stages.core.reader.reports import answers_of, prompts_of, read_slots
from stages.tools import cli, params_file
from stages.tools.dependencies import differences
from stages.tools.preset import FOLDER, changed, names, read_preset
from tests.pipeline import tiny as pipeline
from tests.tools import documented
from tests.tools.families import FAMILIES, tiny, tokenizer_of, untrained

PARAMS = (pipeline.ROOT / "params.yaml").read_text(encoding="utf-8")
HOSTS = ("The opera Tosca was composed by", None, "In the body the heart, of all organs, belongs to")
every_preset = pytest.mark.parametrize("preset", list(FAMILIES))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    pipeline.make_repository(root)
    monkeypatch.chdir(root)
    return root


def reader_of(preset: str) -> Reader:
    """A reader of a tiny model of the family, as the preset's params make one."""
    params = read_preset(preset).params
    return untrained(
        tiny(FAMILIES[preset]),
        params["projector.slot_token"],
        question=params["projector.question"],
        places=tuple(params["projector.places"]),
    )


def random_slots(reader: Reader) -> Slots:
    """What random gradients put into slots, a row a host; rows have three, two and one place."""
    gradients = torch.randn(len(HOSTS), len(reader.card.places), 32, generator=torch.Generator().manual_seed(0))
    for row in range(len(HOSTS)):
        gradients[row, len(reader.card.places) - row :] = 0
    with torch.no_grad():
        return reader.read(gradients)


def test_every_preset_has_a_family_here():
    assert names() == sorted(FAMILIES)


@every_preset
def test_the_layer_is_two_thirds_down_and_everywhere_the_same(preset: str):
    found = read_preset(preset)
    layer = found.params["virtual_step.layer"]
    assert found.params["gradients.layers"] == found.params["projector.layers"] == [layer]
    assert layer == round(found.blocks * 2 / 3) < found.blocks


@every_preset
def test_the_slots_are_found_in_a_reading_prompt_and_bos_stands_once(preset: str):
    family, reader = FAMILIES[preset], reader_of(preset)
    tokenizer = reader.decoder.tokenizer
    assert tokenizer is not None
    slots = random_slots(reader)
    prompts = prompts_of(reader, HOSTS, reader.card.question, slots)
    for host, prompt, count in zip(HOSTS, prompts, slots.count.tolist(), strict=True):
        text, slot = str(tokenizer.decode(prompt.ids)), reader.card.slot_token * count
        assert prompt.felt == list(range(prompt.felt[0], prompt.felt[0] + count))
        assert prompt.opposite == list(range(prompt.opposite[0], prompt.opposite[0] + count))
        assert [tokenizer.decode([prompt.ids[at]]) for at in prompt.slots] == [reader.card.slot_token] * 2 * count
        question = reader.card.question.replace(FELT, slot).replace(OPPOSITE, slot)
        assert question in text and (host or "") in text
        assert text.startswith(family.bos) and (not family.bos or text.count(family.bos) == 1)
        if family.template is None:
            assert text.endswith(question)
        else:
            assert text.index(question) < text.rindex({"gemma-3-4b-it": "model"}.get(preset, "assistant"))


@every_preset
def test_the_template_does_not_read_the_clock(preset: str):
    assert "strftime" not in (FAMILIES[preset].template or ""), "the same inputs must give the same bytes"


@every_preset
def test_the_slot_token_is_one_special_token_of_its_own(preset: str):
    tokenizer, slot = tokenizer_of(FAMILIES[preset]), read_preset(preset).params["projector.slot_token"]
    assert len(tokenizer.encode(slot, add_special_tokens=False)) == 1
    assert slot not in (tokenizer.bos_token, tokenizer.eos_token) and slot not in (tokenizer.chat_template or "")


@every_preset
def test_reports_decode_and_depend_on_the_gradient_alone_and_together(preset: str):
    reader = reader_of(preset)
    question, slots = reader.card.question, random_slots(reader)
    together = answers_of(reader, HOSTS, question, slots, tokens=8)
    alone = [answers_of(reader, [host], question, slots[row : row + 1], 8)[0] for row, host in enumerate(HOSTS)]
    assert together == alone
    prompts, empty = prompts_of(reader, HOSTS, question, slots), Slots(slots.felt * 0, slots.opposite * 0, slots.count)
    read = [read_slots(reader, prompts[:1], [()], vectors)[0, -1] for vectors in (slots[:1], None)]
    ends = [reader.decoder.logits(normed) for normed in read]
    assert (ends[0] - ends[1]).abs().max() > 0.1 * ends[1].std()
    # Through its window of 16 tokens, the tiny Gemma sees too little of the slots to change its likeliest tokens.
    assert together != answers_of(reader, HOSTS, question, empty, 8) or preset == "gemma-3-4b-it"
    specials = FAMILIES[preset].special
    assert all(isinstance(report, str) and not any(name in report for name in specials) for report in together)


@every_preset
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_measured_on_the_family(preset: str, dtype: torch.dtype):
    decoder = tiny(FAMILIES[preset], dtype)
    prompt, target = decoder.tokens("The capital of France is"), decoder.continuation("London")
    bos = FAMILIES[preset].bos if FAMILIES[preset].adds_bos else ""
    assert decoder.tokenizer is not None
    assert decoder.tokenizer.decode(prompt) == f"{bos}The capital of France is"
    found = next(activation_gradients(decoder, [Sample(tuple(prompt), tuple(target))], [2]))
    assert found.gradient.shape == (1, 1, 32) and float(abs(found.gradient).max()) > 0


def test_a_slot_token_of_another_family_is_refused_with_the_key():
    reader = untrained(tiny(FAMILIES["pythia"]), "<|fim_pad|>")
    with pytest.raises(ValueError, match=r"projector.slot_token: '<\|fim_pad\|>' stands 0 times"):
        prompts_of(reader, [None], reader.card.question, None)


@every_preset
def test_params_change_where_the_preset_says_and_nowhere_else(preset: str):
    found, safe = read_preset(preset), YAML(typ="safe")
    before, after = safe.load(PARAMS), safe.load(changed(PARAMS, found))
    for key, value in found.params.items():
        *section, name = key.split(".")
        old, new = ((content[section[0]] if section else content) for content in (before, after))
        assert new[name] == value
        new[name] = old[name]
    assert after == before
    removed = [line for line in params_file.difference(PARAMS, changed(PARAMS, found)) if line.startswith("-  ")]
    assert len(removed) <= len(found.params)
    comments = [re.findall("#.*", text) for text in (PARAMS, changed(PARAMS, found))]
    assert comments[0] == comments[1]


def test_an_edit_of_nothing_changes_no_byte():
    assert params_file.edited(PARAMS, {}) == PARAMS


@every_preset
def test_the_projector_reads_what_is_stored_and_no_pocket_model_is_trained_beside(preset: str):
    params = YAML(typ="safe").load(changed(PARAMS, read_preset(preset)))
    assert set(params["projector"]["places"]) <= set(params["gradients"]["places"])
    assert set(params["projector"]["layers"]) <= set(params["gradients"]["layers"])
    assert params["peers"] == {} and params["projector"]["architecture"] != "raw"


def test_without_apply_nothing_changes(repository: Path, capsys: pytest.CaptureFixture[str]):
    before = {name: (repository / name).read_bytes() for name in ("params.yaml", "dvc.yaml")}
    cli.main(["preset", "Qwen3-4B-Instruct"])
    shown = capsys.readouterr().out
    for line in ("-  source: pocket # or a Hub id", "+  source: Qwen/Qwen3-4B-Instruct-2507 # or a Hub id"):
        assert line in shown
    assert "params.yaml is as it was" in shown
    assert before == {name: (repository / name).read_bytes() for name in before}


def test_apply_changes_params_and_keeps_the_pipeline_true(repository: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["preset", "gemma-3-4b-it", "--apply"])
    assert YAML(typ="safe").load((repository / "params.yaml").read_text())["model"]["source"] == "google/gemma-3-4b-it"
    assert not differences(repository, write=False)
    shown = " ".join(capsys.readouterr().out.split())
    for said in ("accept the licence at https://huggingface.co/google/gemma-3-4b-it", "model.revision", "git checkout"):
        assert said in shown


def test_the_documented_commands_run(repository: Path):
    shown = documented.run("hub-models.md", repository)
    assert "params.yaml and dvc.yaml: changed" in shown and all(name in shown for name in names())


def test_the_list_names_every_preset(capsys: pytest.CaptureFixture[str]):
    cli.main(["preset"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in names())


def test_an_unknown_preset_a_missing_key_and_a_broken_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="preset 'gpt-9': unknown, wanted one of gemma-3-4b-it, "):
        read_preset("gpt-9")
    with pytest.raises(ValueError, match=r"params.yaml: gradients.layers: missing"):
        changed(PARAMS.replace("gradients:\n", "gradient:\n"), read_preset("pythia"))
    monkeypatch.setattr("stages.tools.preset.FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text((FOLDER / "pythia.yaml").read_text().replace("blocks:", "layers:"))
    with pytest.raises(ValueError, match=r"mine.yaml: blocks: missing"):
        read_preset("mine")
    (tmp_path / "mine.yaml").write_text("a: b: c")
    with pytest.raises(ValueError, match=r"mine.yaml: not readable as YAML"):
        read_preset("mine")


def test_presets_outside_a_repository_say_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"error: params.yaml: no such file: run this in the repository's root"):
        cli.main(["preset", "pythia"])
