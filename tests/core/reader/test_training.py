"""A projector's training: what is drawn, what the losses are, when it stops, and that a kill changes nothing."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.data.facts import Domain
from stages.core.data.gathering import Stored
from stages.core.data.gradient_store import SHARDED, open_store, write_store
from stages.core.data.grammar import NO_PRESSURE, parse_report
from stages.core.model.decoder import Decoder
from stages.core.reader import training
from stages.core.reader.injection import Slots
from stages.core.reader.lessons import Curriculum
from stages.core.reader.projectors import ARCHITECTURES
from stages.core.reader.training import SHARPNESS, report_loss, slot_loss, spent, train
from stages.core.run.errors import InputError
from tests.core.reader.teaching import LAYERS, PLACES, curriculum, held_rows, new_reader, prompts, replaced, settings

QUIET = lambda steps: None  # noqa: E731


@pytest.fixture(scope="module")
def teaching(small_decoder: Decoder, small_domains: list[Domain]) -> Curriculum:
    return curriculum(small_decoder, small_domains, settings(), unseen="Lima")


def test_a_batch_is_the_same_whenever_it_is_drawn(teaching: Curriculum):
    later, first = teaching.draw("train", 7, 32, 8), teaching.draw("train", 0, 32, 8)
    again = teaching.draw("train", 7, 32, 8)
    assert torch.equal(again.gradients, later.gradients) and (again.reports, again.hosts) == (
        later.reports,
        later.hosts,
    )
    assert first.reports != later.reports


def test_reports_and_names_say_what_the_gradient_does_and_hosts_are_of_other_domains(teaching: Curriculum):
    draws = teaching.draw("train", 0, 400, 400)
    known = {pair: row for row, pair in enumerate(teaching.lessons.select("moved_to", "moved_from").iter_rows())}
    gradients = torch.cat(list(teaching.blocks()))
    flipped = shams = 0
    for row, (text, host, names) in enumerate(zip(draws.reports, draws.hosts, draws.names, strict=True)):
        said = parse_report(text)
        if text == NO_PRESSURE:
            shams += 1
            assert names is None
            continue
        assert names is not None and names == (said.moved_to, said.moved_from) and not said.malformed
        assert host is None or host not in teaching.hosts[said.domain]
        # drawn as it stands, or flipped from its opposite
        own, opposite = gradients[known[names]], -gradients[known[names[::-1]]]
        straight, turned = (torch.equal(draws.gradients[row], each) for each in (own, opposite))
        assert straight or turned
        flipped += turned
    assert 40 < shams < 120 and flipped > 60 and any(host is None for host in draws.hosts)


def test_shams_keep_the_norms_of_the_gradient_or_are_zero(teaching: Curriculum):
    draws = teaching.draw("train", 0, 400, 400)
    norms = set(torch.cat(list(teaching.blocks())).norm(dim=-1).round(decimals=3).flatten().tolist())
    shams = draws.gradients[[row for row, names in enumerate(draws.names) if names is None]]
    found = shams.norm(dim=-1).round(decimals=3).flatten().tolist()
    assert all(min(abs(norm - other) for other in norms | {0.0}) < 2e-3 for norm in found)
    assert 0.1 < (shams == 0).flatten(1).all(1).float().mean() < 0.6


def test_a_difference_of_two_gradients_of_a_prompt_goes_toward_the_one_target_and_away_from_the_other(
    small_decoder: Decoder, small_domains: list[Domain]
):
    paired = curriculum(small_decoder, small_domains, settings(flips=0.0, shams=0.0, differences=0.5))
    gradients, lessons = torch.cat(list(paired.blocks())), paired.lessons.rows(named=True)
    toward = {each["moved_to"]: each["prompt"] for each in lessons}
    draws, plain = paired.draw("train", 0, 200, 0), 0
    for gradient, names in zip(draws.gradients, draws.names, strict=True):
        assert names is not None and toward[names[0]] == toward[names[1]]
        rows = [row for row, each in enumerate(lessons) if each["moved_to"] == names[0]]
        if any(torch.equal(gradient, gradients[row]) and lessons[row]["moved_from"] == names[1] for row in rows):
            plain += 1
            continue
        others = [row for row, each in enumerate(lessons) if each["moved_to"] == names[1]]
        assert any(torch.equal(gradient, gradients[row] - gradients[other]) for row in rows for other in others)
    assert 70 < plain < 140  # some draws take a row of the same target away, which is left as it is


def test_a_name_that_is_in_no_lesson_is_in_no_report(teaching: Curriculum):
    """Not even by a flipped gradient."""
    said = [parse_report(text) for step in range(5) for text in teaching.draw("train", step, 200, 0).reports]
    named = {name for each in said for name in (each.moved_from, each.moved_to)}
    assert "Lima" not in named and {"Oslo", "New Delhi", "Puccini"} <= named


def test_only_the_reported_rows_of_a_batch_may_be_shams(teaching: Curriculum):
    drawn = [teaching.draw("train", step, 40, 10).reports for step in range(20)]
    assert not any(NO_PRESSURE in reports[10:] for reports in drawn) and any(NO_PRESSURE in each for each in drawn)


def test_the_slot_loss_is_least_where_slots_hold_their_names_a_token_a_place(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings())
    names = [("New Delhi", "San José"), None, ("Verdi", "Richard Strauss")]
    new, delhi, san, verdi, richard = (
        small_decoder.tokens(word)[0] for word in ["New", "Delhi", "San", "Verdi", "Richard"]
    )
    felt, opposite = torch.randn(2, 3, 2, small_decoder.d_model, generator=torch.Generator().manual_seed(0))
    felt[0], felt[2, 0] = reader.tokens[torch.tensor([new, delhi])], reader.tokens[verdi]
    opposite[0, 0], opposite[2, 0] = reader.tokens[san], reader.tokens[richard]
    good = Slots(felt, opposite, torch.tensor([2, 1, 1]))
    found = slot_loss(reader, good, names)
    at = [(felt[0, 0], new), (felt[0, 1], delhi), (opposite[0, 0], san), (felt[2, 0], verdi), (opposite[2, 0], richard)]
    logs = [(SHARPNESS * reader.tokens.cosines(vector)).log_softmax(-1)[token] for vector, token in at]
    torch.testing.assert_close(found, -torch.stack(logs).mean())
    assert slot_loss(reader, Slots(torch.randn_like(felt), opposite, good.count), names) > found


def test_the_report_loss_is_the_model_s_own(small_decoder: Decoder, teaching: Curriculum):
    """Row by row, without padding, through the whole model."""
    reader = new_reader(small_decoder, settings())
    draws = teaching.draw("train", 0, 6, 6)
    slots = reader.read(draws.gradients)
    (end,) = reader.decoder.eos_ids()
    losses = []
    for row, (host, report) in enumerate(zip(draws.hosts[:4], draws.reports[:4], strict=True)):
        tail, own = [*small_decoder.continuation(report), end], slots[row : row + 1]
        prompt = prompts(reader, [host], own)[0]
        embeds = replaced(reader, host, tail[:-1], own)
        logits = small_decoder.model(inputs_embeds=embeds).logits[0, len(prompt.ids) - 1 :]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(tail), reduction="none"))
    torch.testing.assert_close(report_loss(reader, draws, slots[:4]), torch.cat(losses).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("losses", "patience", "wanted"),
    [([], 1, False), ([1.0], 1, False), ([1.0, 1.1], 1, True), ([1.0, 1.1], 2, False), ([1.0, 1.1, 1.2], 2, True),
     ([1.0, 1.1, 0.9], 2, False), ([1.0, 1.0], 1, False)],
)  # fmt: skip
def test_patience_is_spent_when_no_lower_loss_comes(losses: list[float], patience: int, wanted: bool):
    assert spent(losses, patience) == wanted


def test_training_stops_early_and_keeps_the_best_weights(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wanted = settings(steps=40, validate_every=2, patience=2, slot_loss=0.0)
    reader, teaching = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    held, kept = iter([3.0, 1.0, 2.0, 1.5, 0.1]), []
    real = training.report_loss

    def loss(reader, draws, slots):
        if torch.is_grad_enabled():
            return real(reader, draws, slots)
        kept.append({name: value.clone() for name, value in reader.projector.state_dict().items()})
        return torch.tensor(next(held))

    monkeypatch.setattr(training, "report_loss", loss)
    curve = train(reader, teaching, held_rows(teaching), wanted, tmp_path / "state", QUIET)
    assert [(point["step"], point["validation_loss"]) for point in curve] == [(2, 3.0), (4, 1.0), (6, 2.0), (8, 1.5)]
    for name, value in reader.projector.state_dict().items():
        assert torch.equal(value, kept[1][name]) and not torch.equal(value, kept[3][name])
    # Killed after it had stopped: the state stands, and training doesn't go on past the stop.
    resumed = new_reader(small_decoder, wanted)
    assert train(resumed, teaching, held_rows(teaching), wanted, tmp_path / "state", QUIET) == curve
    assert torch.equal(*(each.projector.state_dict()["map.0.weight"] for each in (reader, resumed)))


def test_a_killed_training_ends_in_the_same_weights(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    wanted = settings()
    teaching = curriculum(small_decoder, small_domains, wanted)
    whole, killed, resumed = (new_reader(small_decoder, wanted) for _ in range(3))
    calls = iter(range(100))

    def die(steps: int) -> None:
        if next(calls) == 7:
            raise KeyboardInterrupt

    curve = train(whole, teaching, held_rows(teaching), wanted, tmp_path / "a", QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(killed, teaching, held_rows(teaching), wanted, tmp_path / "b", die)
    assert (tmp_path / "b").is_file()
    assert train(resumed, teaching, held_rows(teaching), wanted, tmp_path / "b", QUIET) == curve
    for name, value in whole.projector.state_dict().items():
        assert torch.equal(value, resumed.projector.state_dict()[name]), name


def test_training_learns_and_leaves_the_model_alone(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    wanted = settings(steps=60, learning_rate=0.01, shams=0.0, validate_every=30)
    before = {name: value.clone() for name, value in small_decoder.model.state_dict().items()}
    reader, teaching = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    draws = teaching.draw("test", 0, 64, 64)
    losses = [slot_loss(reader, reader.read(draws.gradients), draws.names).item()]
    train(reader, teaching, held_rows(teaching), wanted, tmp_path / "state", QUIET)
    losses.append(slot_loss(reader, reader.read(draws.gradients), draws.names).item())
    assert losses[1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in small_decoder.model.state_dict().items())


@pytest.mark.parametrize("architecture", ["scale", "scalar_affine"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scale_and_affine_learn_the_sign_of_the_gradients(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path, architecture: str, sign: float
):
    """Of gradients that point the wrong way, the learned sign is negative, from whichever it began with."""
    for seed in (0, 1):
        wanted = settings(
            architecture=architecture, seeds=[seed], steps=30, batch=16, learning_rate=0.05, flips=0.0, shams=0.0,
            validate_every=30, slot_loss=4.0,
        )  # fmt: skip
        reader = new_reader(small_decoder, wanted)
        teaching = curriculum(small_decoder, small_domains, wanted, sign=sign)
        train(reader, teaching, held_rows(teaching), wanted, tmp_path / f"{seed}", QUIET)
        assert next(reader.projector.parameters()).sum().sign() == sign


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_raw_has_nothing_to_train_and_its_training_is_one_validation(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path, architecture: str
):
    wanted = settings(architecture=architecture, steps=2, validate_every=1)
    reader, teaching = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    curve = train(reader, teaching, held_rows(teaching), wanted, tmp_path / "state", QUIET)
    if architecture != "raw":
        assert len(curve) == 2 and (tmp_path / "state").is_file()
        return
    held = teaching.draw("validation", 0, 8, 8)
    with torch.no_grad():
        loss = report_loss(reader, held, reader.read(held.gradients)).item()
    assert [(point["step"], point["validation_loss"]) for point in curve] == [(0, pytest.approx(loss))]
    assert math.isnan(curve[0]["train_loss"]) and not (tmp_path / "state").exists()


@pytest.mark.usefixtures("two_threads")
def test_training_on_two_threads_twice_gives_the_same_weights(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    """In batches as large as the default's: in smaller ones torch has nothing to spread over threads."""
    wanted = settings(steps=3, batch=32, report_batch=32, width=512)
    one, two = new_reader(small_decoder, wanted), new_reader(small_decoder, wanted)
    for reader, name in ((one, "a"), (two, "b")):
        teaching = curriculum(small_decoder, small_domains, wanted)
        train(reader, teaching, held_rows(teaching), wanted, tmp_path / name, QUIET)
    for name, value in one.projector.state_dict().items():
        assert torch.equal(value, two.projector.state_dict()[name]), name


def test_training_that_diverges_is_refused_with_its_step_and_what_to_try(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    wanted = settings(learning_rate=1e30, steps=6, validate_every=3)
    reader, teaching = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    said = r"seed 0: validation loss at step 3: found nan, wanted .*lower .*learning_rate \(now 1e\+30"
    with pytest.raises(InputError, match=said):
        train(reader, teaching, held_rows(teaching), wanted, tmp_path / "state", QUIET)
    assert not (tmp_path / "state").exists()


def stored(teaching: Curriculum, path: Path, spoilt: int | None = None) -> Curriculum:
    """The same lessons, their vectors in a store; `spoilt`: a row whose gradient is NaN, as no stage would write."""
    ids = [f"{row:016x}" for row in teaching.rows]
    vectors = teaching.gradients[teaching.rows].reshape((len(ids), len(PLACES), len(LAYERS), -1))
    piece = {name: vectors.copy() for name in SHARDED}
    piece |= {name: np.zeros(len(ids)) for name in ("target_logprob", "answer_logprob", "top_token")}
    if spoilt is not None:
        piece["gradient"][spoilt, 0, 1, 2] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.core.data.gradient_store.check_finite", lambda *_: None)
        write_store(path, [piece], ids, 23, {"layers": LAYERS, "places": PLACES})
    gradient = Stored([open_store(path, ids)], "gradient", LAYERS, PLACES)
    return Curriculum(gradient, teaching.lessons, teaching.hosts, teaching.settings, teaching.seed)


def test_a_nan_in_the_middle_of_the_rows_is_named_and_the_steps_before_it_are_kept(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Rows are read as an epoch comes to them, here four, a batch, at a time."""
    for name, number in (("BLOCK_ROWS", 4), ("HELD_BLOCKS", 1)):
        monkeypatch.setattr(f"stages.core.data.gathering.{name}", number)
    wanted, state = settings(steps=6, batch=4, validate_every=1, patience=9), tmp_path / "state"
    held = curriculum(small_decoder, small_domains, wanted)
    whole = new_reader(small_decoder, wanted)
    curve = train(whole, stored(held, tmp_path / "whole.zarr"), held_rows(held), wanted, tmp_path / "other", QUIET)
    spoilt = int(held.shuffled.windows("train", 0)[3][1][2])
    broken = stored(held, tmp_path / "spoilt.zarr", spoilt)
    with pytest.raises(InputError, match=f"spoilt.zarr: gradient of prompt {spoilt:016x}: NaN .* 1 such row"):
        train(new_reader(small_decoder, wanted), broken, held_rows(held), wanted, state, QUIET)
    steps: list[int] = []
    resumed, mended = new_reader(small_decoder, wanted), stored(held, tmp_path / "mended.zarr")
    assert train(resumed, mended, held_rows(held), wanted, state, steps.append) == curve
    assert steps[0] == 3
    for name, value in whole.projector.state_dict().items():
        assert torch.equal(value, resumed.projector.state_dict()[name]), name
