"""A projector's training: what is drawn, what the losses are, when it stops, and that a kill changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.data.facts import Domain
from stages.core.data.gathering import Stored
from stages.core.data.gradient_store import open_store, write_arrays
from stages.core.data.grammar import NO_PRESSURE, parse_report
from stages.core.model.decoder import Decoder
from stages.core.reader import training
from stages.core.reader.reports import prompt_of
from stages.core.reader.training import Curriculum, Spelling, report_loss, spent, train
from stages.core.run.errors import InputError
from tests.core.reader.teaching import REFERENCE, curriculum, new_reader, replaced, settings

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


def test_reports_and_slots_say_what_the_gradient_does_and_hosts_are_of_other_domains(teaching: Curriculum):
    draws = teaching.draw("train", 0, 400, 0)
    pairs = teaching.lessons.select("moved_to", "moved_from").iter_rows()
    known = {pair: row for row, pair in enumerate(pairs)}
    gradients = torch.cat(list(teaching.blocks()))
    norms = draws.gradients.norm(dim=-1) / torch.tensor(REFERENCE)
    flipped = shams = 0
    for row, (text, host, slots) in enumerate(zip(draws.reports, draws.hosts, draws.slots, strict=True)):
        said = parse_report(text)
        if text == NO_PRESSURE:
            shams += 1
            assert slots == ("", "no", "no")
            continue
        assert slots == (said.strength, said.moved_to, said.moved_from)
        assert host is None or host not in teaching.hosts[said.domain]
        assert (norms[row] > 1).all() if said.strength == "strong" else (norms[row] < 1).all()
        straight = (said.moved_to, said.moved_from) in known
        own = known[(said.moved_to, said.moved_from) if straight else (said.moved_from, said.moved_to)]
        cosine = torch.nn.functional.cosine_similarity(draws.gradients[row], gradients[own], dim=-1)
        if straight and (said.moved_from, said.moved_to) in known:  # drawn as it stands, or flipped from its opposite
            torch.testing.assert_close(cosine, torch.ones(2))
        else:
            flipped += not straight
            torch.testing.assert_close(cosine, torch.ones(2) * (1 if straight else -1))
    assert 40 < shams < 120 and any(host is None for host in draws.hosts)


def test_context_noise_adds_one_rows_activation_direction_and_leaves_the_strength_as_it_is(
    small_decoder: Decoder, small_domains: list[Domain]
):
    quiet = curriculum(small_decoder, small_domains, settings(flips=0.0, shams=0.0))
    noisy = curriculum(small_decoder, small_domains, settings(flips=0.0, shams=0.0, context_noise=1.0))
    plain, mixed = (lessons.draw("train", 0, 64, 0).gradients for lessons in (quiet, noisy))
    torch.testing.assert_close(mixed.norm(dim=-1), plain.norm(dim=-1))
    contexts = torch.from_numpy(noisy.shuffled.kinds[1][noisy.rows])
    directions = torch.nn.functional.normalize(contexts, dim=-1)
    amounts = []
    for before, after in zip(plain, mixed, strict=True):
        basis = torch.stack([before.expand_as(directions), directions], -1)  # context, layer, d_model, 2
        found = torch.linalg.lstsq(basis, after.expand_as(directions)[..., None])
        gaps = (basis @ found.solution - after[..., None]).norm(dim=(-2, -1)) / after.norm(dim=-1)
        context = int(gaps.sum(-1).argmin())
        assert gaps[context].max() < 1e-4
        weights = found.solution[context, :, :, 0]
        amounts.append(weights[:, 1] / (weights[:, 0] * before.norm(dim=-1)))
    spread = torch.stack(amounts)
    torch.testing.assert_close(spread[:, 0], spread[:, 1], rtol=1e-3, atol=1e-3)
    assert 0.7 < spread[:, 0].std() < 1.3 and abs(spread[:, 0].mean()) < 0.4


def test_an_entity_held_out_as_a_target_is_never_taught_as_moved_to(teaching: Curriculum):
    """Not even by a flipped gradient: it may only be what a report moves away from."""
    said = [parse_report(text) for step in range(5) for text in teaching.draw("train", step, 200, 0).reports]
    assert "Lima" in {each.moved_from for each in said} and "Lima" not in {each.moved_to for each in said}


def test_the_reported_rows_of_a_batch_are_no_shams(teaching: Curriculum):
    drawn = [teaching.draw("train", step, 40, 10).reports for step in range(20)]
    assert not any(NO_PRESSURE in reports[:10] for reports in drawn) and any(NO_PRESSURE in each for each in drawn)


def test_the_slot_loss_is_least_where_slots_hold_their_words(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings())
    spelling = Spelling(reader)
    slots = [("strong", "Oslo", "New Delhi"), ("weak", "Verdi", "")]
    ids = {word: small_decoder.continuation(word) for row in slots for word in row if word}
    good = torch.stack([torch.stack([reader.tokens[ids.get(word, [0])[0]] for word in row]) for row in slots])
    scores = reader.naming(good)
    logs = scores.log_softmax(-1)
    new, delhi = ids["New Delhi"]
    terms = [(1.0, logs[0, 0, ids["strong"][0]]), (1.0, logs[0, 1, ids["Oslo"][0]]), (2 / 3, logs[0, 2, new])]
    terms += [(1 / 3, logs[0, 2, delhi]), (1.0, logs[1, 0, ids["weak"][0]]), (1.0, logs[1, 1, ids["Verdi"][0]])]
    wanted = -sum(share * value for share, value in terms) / 5
    torch.testing.assert_close(spelling.loss(good, slots), wanted)
    assert spelling.loss(torch.randn(2, 3, reader.decoder.d_model), slots) > wanted


def test_the_report_loss_is_the_model_s_own(small_decoder: Decoder, teaching: Curriculum):
    """Row by row, without padding, through the whole model."""
    reader = new_reader(small_decoder, settings())
    draws = teaching.draw("train", 0, 6, 6)
    vectors = reader.vectors(draws.gradients)
    (end,) = reader.decoder.eos_ids()
    losses = []
    for row, (host, report) in enumerate(zip(draws.hosts[:4], draws.reports[:4], strict=True)):
        tail = [*small_decoder.continuation(report), end]
        prompt = prompt_of(reader, host)
        embeds = replaced(reader, host, tail[:-1], vectors[row : row + 1])
        logits = small_decoder.model(inputs_embeds=embeds).logits[0, len(prompt.ids) - 1 :]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(tail), reduction="none"))
    torch.testing.assert_close(report_loss(reader, draws, vectors, 4), torch.cat(losses).mean(), rtol=1e-4, atol=1e-5)


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

    def loss(reader, draws, vectors, rows):
        if torch.is_grad_enabled():
            return real(reader, draws, vectors, rows)
        kept.append({name: value.clone() for name, value in reader.projector.state_dict().items()})
        return torch.tensor(next(held))

    monkeypatch.setattr(training, "report_loss", loss)
    curve = train(reader, teaching, teaching, wanted, tmp_path / "state", QUIET)
    assert [(point["step"], point["validation_loss"]) for point in curve] == [(2, 3.0), (4, 1.0), (6, 2.0), (8, 1.5)]
    for name, value in reader.projector.state_dict().items():
        assert torch.equal(value, kept[1][name]) and not torch.equal(value, kept[3][name])
    # Killed after it had stopped: the state stands, and training doesn't go on past the stop.
    resumed = new_reader(small_decoder, wanted)
    assert train(resumed, teaching, teaching, wanted, tmp_path / "state", QUIET) == curve
    assert torch.equal(*(each.projector.state_dict()["first.map.0.weight"] for each in (reader, resumed)))


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

    curve = train(whole, teaching, teaching, wanted, tmp_path / "a", QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(killed, teaching, teaching, wanted, tmp_path / "b", die)
    assert (tmp_path / "b").is_file()
    assert train(resumed, teaching, teaching, wanted, tmp_path / "b", QUIET) == curve
    for name, value in whole.projector.state_dict().items():
        assert torch.equal(value, resumed.projector.state_dict()[name]), name


def test_training_learns_and_leaves_the_model_alone(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    wanted = settings(steps=60, learning_rate=0.01, shams=0.0, validate_every=30)
    before = {name: value.clone() for name, value in small_decoder.model.state_dict().items()}
    reader, teaching = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    draws = teaching.draw("test", 0, 64, 64)
    spelling, losses = Spelling(reader), []
    losses.append(spelling.loss(reader.project(draws.gradients), draws.slots).item())
    train(reader, teaching, teaching, wanted, tmp_path / "state", QUIET)
    losses.append(spelling.loss(reader.project(draws.gradients), draws.slots).item())
    assert losses[1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in small_decoder.model.state_dict().items())


@pytest.mark.usefixtures("two_threads")
def test_training_on_two_threads_twice_gives_the_same_weights(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    """In batches as large as the default's: in smaller ones torch has nothing to spread over threads."""
    wanted = settings(steps=6, batch=256, report_batch=128, width=1024)
    one, two = new_reader(small_decoder, wanted), new_reader(small_decoder, wanted)
    for reader, name in ((one, "a"), (two, "b")):
        teaching = curriculum(small_decoder, small_domains, wanted)
        train(reader, teaching, teaching, wanted, tmp_path / name, QUIET)
    for name, value in one.projector.state_dict().items():
        assert torch.equal(value, two.projector.state_dict()[name]), name


def test_training_that_diverges_is_refused_with_its_step_and_what_to_try(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path
):
    wanted = settings(learning_rate=1e30, steps=6, validate_every=3)
    reader, teaching = new_reader(small_decoder, wanted), curriculum(small_decoder, small_domains, wanted)
    said = r"seed 0: validation loss at step 3: found nan, wanted .*lower .*learning_rate \(now 1e\+30"
    with pytest.raises(InputError, match=said):
        train(reader, teaching, teaching, wanted, tmp_path / "state", QUIET)
    assert not (tmp_path / "state").exists()


def stored(teaching: Curriculum, path: Path, spoilt: int | None = None) -> Curriculum:
    """The same lessons, their vectors in a store; `spoilt`: a row whose activation is NaN, as no stage would write."""
    ids = [f"{row:016x}" for row in teaching.rows]
    piece = {
        name: kind[teaching.rows]
        for name, kind in zip(("gradient", "activation"), teaching.shuffled.kinds, strict=True)
    }
    piece |= {name: np.zeros(len(ids)) for name in ("target_logprob", "answer_logprob", "top_token")}
    if spoilt is not None:
        piece["activation"][spoilt, 1, 2] = np.nan
    write_arrays(path, [piece], ids, 23, {"layers": [0, 1]})
    gradients, activations = (Stored([open_store(path, ids)], name, [0, 1]) for name in ("gradient", "activation"))
    told = teaching.lessons, teaching.hosts, REFERENCE, teaching.settings, teaching.seed
    return Curriculum(gradients, activations, *told)


def test_a_nan_in_the_middle_of_the_rows_is_named_and_the_steps_before_it_are_kept(
    small_decoder: Decoder, small_domains: list[Domain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Rows are read as an epoch comes to them, here four, a batch, at a time."""
    for name, number in (("BLOCK_ROWS", 4), ("HELD_BLOCKS", 1)):
        monkeypatch.setattr(f"stages.core.data.shuffling.{name}", number)
    wanted, state = settings(steps=6, batch=4, validate_every=1, patience=9), tmp_path / "state"
    held = curriculum(small_decoder, small_domains, wanted)
    whole = new_reader(small_decoder, wanted)
    curve = train(whole, stored(held, tmp_path / "whole.zarr"), held, wanted, tmp_path / "other", QUIET)
    spoilt = int(held.shuffled.windows("train", 0)[3][1][2])
    with pytest.raises(InputError, match=f"spoilt.zarr: activation of prompt {spoilt:016x}: NaN .* 1 such row"):
        train(
            new_reader(small_decoder, wanted),
            stored(held, tmp_path / "spoilt.zarr", spoilt),
            held,
            wanted,
            state,
            QUIET,
        )
    steps: list[int] = []
    resumed, mended = new_reader(small_decoder, wanted), stored(held, tmp_path / "mended.zarr")
    assert train(resumed, mended, held, wanted, state, steps.append) == curve
    assert steps[0] == 3
    for name, value in whole.projector.state_dict().items():
        assert torch.equal(value, resumed.projector.state_dict()[name]), name
