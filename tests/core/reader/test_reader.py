"""The reader: what reports depend on, and that a projector is only used with the model it was made for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.core.data.facts import Domain
from stages.core.engine.prefix import Padding
from stages.core.model.decoder import Decoder
from stages.core.reader.projectors import ARCHITECTURES
from stages.core.reader.reader import Reader
from stages.core.reader.reports import prompt_of, reports_of, written_reports
from stages.core.reader.saving import load_reader, save_reader
from stages.core.reader.training import train
from stages.core.run.files import write_json
from tests.core.reader.teaching import curriculum, new_reader, replaced, settings
from tests.tools.families import FAMILIES, tiny, untrained

HOSTS = [None, "The capital of Peru is", "It is known that the composer of Tosca is"] * 4


@pytest.fixture
def reader(small_decoder: Decoder) -> Reader:
    return new_reader(small_decoder, settings(architecture="linear"))


def gradients(reader: Reader) -> torch.Tensor:
    return torch.randn(len(HOSTS), 2, reader.decoder.d_model, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("injected", [True, False])
def test_batch_size_and_order_change_no_report(reader: Reader, injected: bool):
    read = gradients(reader) if injected else None
    wanted = written_reports(reader, HOSTS, read, 5, batch=256)
    for batch in (1, 5):
        assert written_reports(reader, HOSTS, read, 5, batch=batch) == wanted
    backwards = written_reports(reader, HOSTS[::-1], None if read is None else read.flip(0), 5)
    assert backwards[::-1] == wanted and len(set(wanted)) > 1


def test_without_injection_the_report_is_what_the_model_itself_goes_on_with(reader: Reader):
    for host, report in zip(HOSTS, written_reports(reader, HOSTS, None, 5), strict=True):
        ids = torch.tensor([prompt_of(reader, host).ids])
        plain = reader.decoder.model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]  # type: ignore[operator]
        assert report == str(reader.decoder.tokenizer.decode(plain, skip_special_tokens=True)).strip()  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["qwen3-4b-instruct", "llama-3.1-8b-instruct"])
@pytest.mark.parametrize("injected", [True, False])
def test_reports_are_those_of_transformers_own_greedy_generation(family: str, injected: bool):
    decoder = tiny(FAMILIES[family])
    reader = untrained(decoder, FAMILIES[family].special[-1])
    read = torch.randn(len(HOSTS), 1, decoder.d_model, generator=torch.Generator().manual_seed(0))
    vectors = reader.vectors(read) if injected else None
    wanted = []
    for row, host in enumerate(HOSTS):
        embeds = replaced(reader, host, [], None if vectors is None else vectors[[row]])
        ids = decoder.model.generate(inputs_embeds=embeds, max_new_tokens=12, do_sample=False)[0]  # type: ignore[operator]
        wanted.append(str(decoder.tokenizer.decode(ids, skip_special_tokens=True)).strip())  # type: ignore[union-attr]
    assert reports_of(reader, HOSTS, vectors, 12) == wanted and len(set(wanted)) > 1


def test_a_report_ends_before_the_token_that_ends_a_text(small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch):
    reader = new_reader(small_decoder, settings(architecture="linear"))
    whole = written_reports(reader, [HOSTS[1]], None, 8)[0]
    first, *_, last = small_decoder.continuation(whole)
    monkeypatch.setattr(small_decoder, "eos_ids", lambda: frozenset([last]))
    cut = written_reports(reader, [HOSTS[1]], None, 8)[0]
    assert last != first and whole.startswith(cut) and 0 < len(cut) < len(whole)
    monkeypatch.setattr(small_decoder, "eos_ids", lambda: frozenset([first]))
    assert written_reports(reader, [HOSTS[1]], None, 8) == [""]


def test_a_model_that_takes_no_padding_reports_the_same(reader: Reader, monkeypatch: pytest.MonkeyPatch):
    wanted = written_reports(reader, HOSTS, gradients(reader), 5)
    monkeypatch.setattr("stages.core.reader.reports.takes_padding", lambda decoder: False)
    monkeypatch.setattr("stages.core.reader.writing.Padding", lambda width, lengths: (
        Padding(width, lengths) if bool((lengths == width).all()) else pytest.fail("padded")
    ))  # fmt: skip
    assert written_reports(reader, HOSTS, gradients(reader), 5) == wanted


def test_slots_hold_a_mean_of_token_embeddings(reader: Reader):
    vectors = reader.project(gradients(reader))
    scores = reader.naming(vectors)
    weights = scores.softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    torch.testing.assert_close(reader.sharpen(scores), weights @ reader.tokens[torch.arange(len(reader.tokens))])
    torch.testing.assert_close(reader.naming(3 * vectors), scores)  # only the direction counts


def test_below_the_gate_the_first_slot_says_no(reader: Reader):
    read = gradients(reader)
    reader.set_gate([read], [read], share=1.0)
    filled, confidence = reader.fill(read)
    shut = reader.weigh(read)[1] < reader.gate.threshold
    assert torch.equal(confidence < 0.5, shut) and 0 < shut.sum() < len(shut)
    silence = reader.tokens[reader.decoder.continuation("no")[0]]
    assert torch.equal(filled[shut][:, 0], silence.expand(int(shut.sum()), -1))
    assert not (filled[~shut][:, 0] == silence).all(-1).any()


def test_a_sign_flip_leaves_the_evidence_of_mirrored_slots_and_swaps_them(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings(architecture="mirror_mlp"))
    read = gradients(reader)
    reader.set_gate([read], [read], share=0.5)
    (slots, evidence), (flipped, same) = reader.weigh(read), reader.weigh(-read)
    torch.testing.assert_close(evidence, same)
    torch.testing.assert_close(slots[:, 1], flipped[:, 2])


def saved(reader: Reader, folder: Path) -> None:
    save_reader(reader, folder)
    write_json(folder / "projector.json", reader.card.model_dump(mode="json"))


def test_a_projector_comes_back_the_same(reader: Reader, tmp_path: Path):
    saved(reader, tmp_path)
    loaded = load_reader(reader.decoder, tmp_path, "pocket", "0")
    assert loaded.card == reader.card and loaded.seed == reader.seed and not loaded.projector.training
    assert torch.equal(loaded.vectors(gradients(reader)), reader.vectors(gradients(reader)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("whiten", [True, False])
def test_every_architecture_is_trained_on_several_layers_saved_loaded_and_reports_the_same(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path, architecture: str, whiten: bool
):
    wanted = settings(architecture=architecture, whiten=whiten, steps=4)
    reader, lessons = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    before = {name: value.clone() for name, value in reader.projector.named_parameters()}
    reader.fit_whitening(lessons.blocks())
    train(reader, lessons, lessons, wanted, tmp_path / "state", lambda steps: None)
    assert any(not torch.equal(value, before[name]) for name, value in reader.projector.named_parameters())
    saved(reader, tmp_path)
    loaded = load_reader(small_decoder, tmp_path, "pocket", "0")
    read = gradients(reader)
    assert torch.equal(loaded.vectors(read), reader.vectors(read))
    assert written_reports(loaded, HOSTS, read, 5) == written_reports(reader, HOSTS, read, 5)
    second = read * torch.tensor([1.0, 0.0])[:, None]  # both layers count
    assert torch.equal(loaded.project(second), loaded.project(read)) == (architecture == "bias_only")


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "projector.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


WEIGHTS = "seed_0.safetensors"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another model": (edit(model="other"), "projector.json: model: made for 'other', the model here has 'pocket'; run"),
    "another commit": (edit(commit="1"), "projector.json: commit: made for '1', the model here has '0'"),
    "another width": (edit(d_model=64), "projector.json: d_model: made for 64, the model here has 32"),
    "a layer out of range": (edit(layers=[0, 9]), "projector.json: layers: found 9, wanted 0 to 1"),
    "a block out of range": (
        edit(injection={"how": "add", "block": 2, "at": "last", "scale": 1.0}),
        "projector.injection.block: found 2, wanted 0 to 1",
    ),
    "an injection that is none": (
        edit(injection={"how": "replace", "block": 1, "at": "slots", "scale": 1.0}),
        "projector.json: injection: how: found replace with block 1",
    ),
    "no whitening in the weights": (edit(whiten=True), f"{WEIGHTS}: not the weights of .*projector.json"),
    "an unknown key": (edit(misspelt=1), "projector.json: misspelt: unknown key"),
    "a wrong type": (edit(width="wide"), "projector.json: width: wanted a valid integer"),
    "no card": (lambda folder: (folder / "projector.json").unlink(), "projector.json: no such file; run the stage"),
    "other weights": (edit(width=8, architecture="mlp"), f"{WEIGHTS}: not the weights of .*projector.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS}: not the weights of"),
    "weights cut short": (lambda folder: (folder / WEIGHTS).write_bytes(b"12345678"), f"{WEIGHTS}: not the weights of"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_projector_that_does_not_fit_is_refused(reader: Reader, tmp_path: Path, fault: str):
    saved(reader, tmp_path)
    spoil, message = BROKEN[fault]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_reader(reader.decoder, tmp_path, "pocket", "0")


def test_an_unknown_architecture_is_named_with_those_that_are_known(small_decoder: Decoder):
    with pytest.raises(ValueError, match=r"params.yaml: projector.architecture: found 'mpl', wanted one of .*, mlp"):
        new_reader(small_decoder, settings(architecture="mpl"))
