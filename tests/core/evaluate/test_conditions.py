"""What stands in for a gradient: norms, derangements, and that a row's sham depends on the row alone."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from stages.core.data.gathering import Means
from stages.core.evaluate.conditions import ALL, Pool, ungated
from stages.core.reader.shams import Normal
from stages.core.run.seeds import keyed_rng

ROWS, LAYERS, WIDTH = 24, 2, 32


def numbers(seed: int, rows: int = ROWS) -> np.ndarray:
    """Vectors of sizes that differ by row and layer."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(-3, 3, (rows, LAYERS, 1)))
    return (rng.standard_normal((rows, LAYERS, WIDTH)) * sizes).astype(np.float32)


TRAIN = pl.DataFrame({"answer": ["Aida", "Tosca", "Carmen"] * 20}).with_row_index("row")
GRADIENTS, ACTIVATIONS = numbers(2, len(TRAIN)), numbers(3, len(TRAIN))
POOL = Pool(
    pl.DataFrame(
        {
            "prompt_id": [f"id{row}" for row in range(ROWS)],
            "domain": [("music", "history", "geography")[row % 3] for row in range(ROWS)],
            "target": ["Aida"] * ROWS,
            "answer": ["Tosca"] * ROWS,
        }
    ),
    numbers(0),
    numbers(1),
    seed=0,
    likeness=Normal([GRADIENTS]),
    means=Means.of(ACTIVATIONS, TRAIN, ["Aida", "Tosca"]),
    moves=lambda: numbers(1),
    toward=lambda: numbers(0),
)
CONDITIONS = {condition.name: condition for condition in ALL}
BY_A_MODEL = ("fine_tuned", "fine_tuned_ungated", "already_said", "any_word")
READ = [name for name, one in CONDITIONS.items() if one.read and name not in BY_A_MODEL]
THE_GRADIENT = {"real", "lens_tokens", "bias_only", "false_host"}
OF_ITS_NORM = {
    "random", "covariance_matched", "scrambled_signs", "sparse", "wave", "sign_flipped", "activation",
    "activation_negated",
    "steering_vector", "real",
}  # fmt: skip
OF_THE_POOL = {"shuffled_within", "shuffled_across"}


def read(name: str, pool: Pool = POOL) -> np.ndarray:
    make = CONDITIONS[name].read
    assert make is not None
    return make(pool)


def picked(pool: Pool, rows: list[int]) -> Pool:
    return replace(pool, rows=pool.rows[rows], gradients=pool.gradients[rows], activations=pool.activations[rows])


def test_no_injection_is_a_condition_and_the_flip_is_the_one_that_swaps():
    assert CONDITIONS["none"].read is None
    assert [name for name, one in CONDITIONS.items() if one.swapped] == ["sign_flipped"]
    shams = {name for name, one in CONDITIONS.items() if one.sham}
    assert shams == {"covariance_matched", "scrambled_signs", "sparse", "wave"}


def test_names_are_unique_and_what_is_opened_differs_in_the_gate_alone():
    assert len(CONDITIONS) == len(ALL)
    for name, one in CONDITIONS.items():
        if one.opened:
            again = CONDITIONS[f"{name}_ungated"]
            assert again.fill is ungated and (again.read, again.cases) == (one.read, one.cases)


def test_a_fine_tuned_difference_is_read_with_its_sign_turned_at_the_gradient_s_norm():
    moved = replace(POOL, moves=lambda: POOL.activations)
    np.testing.assert_array_equal(read("fine_tuned", moved), read("activation"))


def test_a_fine_tuned_difference_is_there_at_the_first_place_alone():
    found = read("fine_tuned", replace(POOL, moves=lambda: POOL.activations[:, :1]))
    np.testing.assert_array_equal(found[:, :1], read("activation")[:, :1])
    assert not found[:, 1:].any()


@pytest.mark.parametrize("name", sorted(OF_ITS_NORM | {"without_activation", "zero"}))
def test_a_place_that_a_target_has_no_token_for_gets_nothing(name: str):
    """Else it would have a slot more than the gradient that it stands in for."""
    first = np.arange(LAYERS)[:, None] == 0
    assert not read(name, replace(POOL, gradients=POOL.gradients * first))[:, 1:].any()


@pytest.mark.parametrize("name", READ)
def test_each_row_gets_finite_float32_vectors_and_the_same_again(name: str):
    found = read(name)
    assert found.shape == POOL.gradients.shape and found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_array_equal(read(name), found)
    assert (name in THE_GRADIENT) or not np.array_equal(found, POOL.gradients)


@pytest.mark.parametrize("name", sorted(OF_ITS_NORM))
def test_norms_are_those_of_the_gradient_at_each_layer(name: str):
    found, wanted = (np.linalg.norm(values, axis=-1) for values in (read(name), POOL.gradients))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(READ) - OF_THE_POOL))
def test_what_a_row_gets_depends_on_the_row_alone(name: str):
    rows = [17, 3, 8]
    np.testing.assert_allclose(read(name, picked(POOL, rows)), read(name)[rows], rtol=1e-6, atol=1e-9)


def test_another_row_or_seed_has_another_random_direction():
    found = read("random") / np.linalg.norm(read("random"), axis=-1, keepdims=True)
    assert np.abs(np.einsum("ild,jld->lij", found, found) - np.eye(ROWS)).max() < 0.9
    assert not np.allclose(read("random", replace(POOL, seed=1)), read("random"))


@pytest.mark.parametrize("name", ["shuffled_within", "shuffled_across"])
def test_shuffling_deals_every_gradient_to_another_row(name: str):
    found = read(name)
    taken = [int(np.flatnonzero((POOL.gradients == vector).all((1, 2)))[0]) for vector in found]
    assert sorted(taken) == list(range(ROWS)) and all(row != other for row, other in enumerate(taken))
    domains = POOL.rows["domain"].to_list()
    same = [domains[row] == domains[other] for row, other in enumerate(taken)]
    assert all(same) if name == "shuffled_within" else not all(same)


def test_shuffling_does_not_depend_on_the_order_of_rows():
    order = np.random.default_rng(5).permutation(ROWS).tolist()
    for name in ("shuffled_within", "shuffled_across"):
        np.testing.assert_array_equal(read(name, picked(POOL, order)), read(name)[order])


def test_the_flip_is_minus_the_gradient_and_zero_is_nothing():
    np.testing.assert_array_equal(read("sign_flipped"), -POOL.gradients)
    assert not read("zero").any()


def test_shuffling_within_refuses_a_domain_with_one_gradient():
    alone = [row for row in range(ROWS) if row == 0 or row % 3]
    with pytest.raises(AssertionError, match="music: one gradient"):
        read("shuffled_within", picked(POOL, alone))


def test_the_activation_is_given_with_either_sign():
    found = read("activation_negated")
    np.testing.assert_array_equal(read("activation"), -found)
    cosine = (found * POOL.activations).sum(-1) / np.linalg.norm(found, axis=-1)
    np.testing.assert_allclose(cosine, np.linalg.norm(POOL.activations, axis=-1), rtol=1e-5)


def test_without_its_activation_a_gradient_is_at_right_angles_to_it():
    found, activations = read("without_activation"), POOL.activations
    cosine = (found * activations).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(activations, axis=-1)
    assert np.abs(cosine).max() < 1e-5
    again = read("without_activation", replace(POOL, gradients=found))
    np.testing.assert_allclose(again, found, rtol=1e-3, atol=1e-5)


def test_the_steering_vector_goes_from_the_answer_s_mean_to_the_target_s():
    at = [TRAIN["answer"].to_numpy() == name for name in ("Aida", "Tosca")]
    move = ACTIVATIONS[at[0]].mean(0) - ACTIVATIONS[at[1]].mean(0)
    unit = -move / np.linalg.norm(move, axis=-1, keepdims=True)
    found = read("steering_vector")
    np.testing.assert_allclose(
        found / np.linalg.norm(found, axis=-1, keepdims=True), np.tile(unit, (ROWS, 1, 1)), atol=1e-5
    )


def test_covariance_matched_vectors_have_the_training_gradients_mean_and_covariance_before_they_are_normed():
    likeness, shape = Normal([GRADIENTS[:40], GRADIENTS[40:]]), (LAYERS, WIDTH)
    found = np.stack([likeness.draw(keyed_rng(0, f"id{row}"), shape) for row in range(20000)]).reshape(20000, -1)
    train = GRADIENTS.reshape(len(TRAIN), -1)
    spread = train.std(0)
    assert np.abs((found.mean(0) - train.mean(0)) / spread).max() < 0.05
    np.testing.assert_allclose(np.cov(found.T), np.cov(train.T, ddof=0), atol=0.15 * spread.max() ** 2)


def test_covariance_matched_vectors_differ_from_row_to_row():
    found = read("covariance_matched").reshape(ROWS, -1)
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    assert np.abs(found @ found.T - np.eye(ROWS)).max() < 0.999
