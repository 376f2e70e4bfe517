"""Acting on words: it is scored by what the gradient's own step does, and by what the model says after a real one."""

import numpy as np
import polars as pl
import pytest
import torch

from stages.core.data.facts import Domain, World
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import samples_of
from stages.core.grounding.acting import NEIGHBOURS, asked_after, real_scores, sgd_step, virtual_scores
from stages.core.model.decoder import Decoder
from tests.core.evaluate.small import cases_of

CITIES = ["Lima", "Oslo", "Tokyo", "New Delhi", "San Salvador"]
PAIRS = [(to, away) for to in CITIES for away in CITIES if to != away]
SIZES = [0.03, 0.06]


def updates_of(decoder: Decoder, cases: pl.DataFrame, layer: int) -> np.ndarray:
    """The unit update directions of the cases at the last prompt token."""
    found = np.zeros((len(cases), decoder.d_model), np.float32)
    for batch in activation_gradients(decoder, samples_of(decoder, cases), [layer]):
        found[batch.rows] = -batch.gradient.reshape(len(batch.rows), -1)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def prompts(small_domains: list[Domain]) -> pl.DataFrame:
    """All prompts of the small world."""
    rows = [
        {"prompt": template.replace("{subject}", fact.subject), "relation": name, "subject": fact.subject}
        | {"template": template, "said": fact.answer}
        for _, name, relation in World.of(small_domains).relations
        for template in relation.templates
        for fact in relation.facts
    ]
    return pl.DataFrame(rows).with_columns(prompt_id=pl.col("prompt").hash().cast(pl.String))


def asked_cases(prompts: pl.DataFrame, count: int) -> pl.DataFrame:
    """Corrections of the capitals' first prompts, each toward another city than it is."""
    own = prompts.filter(pl.col("relation") == "capital").unique("subject", keep="first", maintain_order=True)
    cities = own["said"].to_list()
    cases = cases_of(*zip([*cities[1:], cities[0]], cities, strict=True)).drop("prompt", "relation", "prompt_id")
    return asked_after(cases.hstack(own.drop("said")), prompts, count)


def test_a_virtual_step_is_scored_by_what_the_gradients_own_does(trained_decoder: Decoder):
    cases = cases_of(*PAIRS).filter(pl.col("answer") == "Lima")
    updates = updates_of(trained_decoder, cases, 1)
    acts = {"gradient": updates, "words": 3 * updates, "words_shuffled": -updates}
    found = virtual_scores(trained_decoder, cases, acts, 1, [0.5, 4.0])
    assert found["toward"]["gradient"]["step_4"].value == found["toward"]["words"]["step_4"].value == 1
    assert found["away"]["words"]["step_4"].value == 1
    assert found["toward"]["words_shuffled"]["step_4"].value == found["away"]["words_shuffled"]["step_4"].value == 0
    assert found["toward"]["gradient"]["step_4"].rows == len(cases)


def test_after_a_step_other_templates_and_other_subjects_are_asked(prompts: pl.DataFrame):
    cases = asked_cases(prompts, 3)
    assert len(cases) == 3 and cases["number"].n_unique() == 3
    by_prompt = {row["prompt"]: row for row in prompts.iter_rows(named=True)}
    for case in cases.iter_rows(named=True):
        again, beside = by_prompt[case["paraphrase"]], [by_prompt[text] for text in case["neighbours"]]
        assert again["subject"] == case["subject"] and again["template"] != case["template"]
        assert 0 < len(beside) <= NEIGHBOURS and case["subject"] not in {row["subject"] for row in beside}
        assert {(row["relation"], row["template"]) for row in beside} == {(case["relation"], case["template"])}
    assert asked_cases(prompts.filter(pl.col("template") == cases["template"][0]), 3).is_empty()


def test_a_copy_that_steps_along_the_gradient_says_what_the_model_says_after_a_real_step(
    trained_decoder: Decoder, prompts: pl.DataFrame
):
    cases = asked_cases(prompts, 6)
    updates = np.zeros((1 + max(cases["number"]), trained_decoder.d_model), np.float32)
    updates[cases["number"].to_numpy()] = updates_of(trained_decoder, cases, 1)
    acts = {"gradient": updates, "words": 2 * updates, "words_shuffled": -updates}
    before = {name: value.clone() for name, value in trained_decoder.model.state_dict().items()}
    found = real_scores(trained_decoder, cases, acts, 1, SIZES, lambda _: None)
    assert found["steps"] == 6
    for size in ("step_0.03", "step_0.06"):
        toward, away = ({name: one[size].value for name, one in found[way].items()} for way in ("toward", "away"))
        assert toward["words"] == toward["gradient"] == 1
        assert away["words"] == 1 and away["gradient"] >= 2 / 3
        assert toward["words_shuffled"] == away["words_shuffled"] == 0
    one_size = real_scores(trained_decoder, cases, acts, 1, SIZES[:1], lambda _: None)
    assert one_size["changed"] == found["changed"]  # answers are those after the first size, whatever else is tried
    for part in ("corrected", "paraphrase"):
        scores = {name: one.value for name, one in found[part].items()}
        assert scores["words"] == scores["gradient"] >= 2 / 3  # a step has its size, however long the direction is
        assert max(scores["words_shuffled"], scores["unchanged"]) < scores["words"]
    assert found["corrected"]["unchanged"].value == 0 and 0 <= found["neighbours"]["unchanged"].value <= 1
    assert "changed" in found and found["changed"].get("unchanged", found["corrected"]["unchanged"]).value == 0
    assert all(torch.equal(value, before[name]) for name, value in trained_decoder.model.state_dict().items())
    assert not any(value.requires_grad for value in trained_decoder.model.parameters())
    assert real_scores(trained_decoder, cases[:0], acts, 1, SIZES, lambda _: None)["steps"] == 0


def test_a_step_has_the_size_that_is_asked_for_and_lowers_the_loss():
    module = torch.nn.Linear(8, 8, bias=False)
    before, x = module.weight.detach().clone(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(2):
        loss = module(x).square().mean()
        losses.append(loss.item())
        sgd_step(module, loss, 0.1)
    assert losses[1] < losses[0]
    with torch.no_grad():
        module.weight.copy_(before)
    sgd_step(module, module(x).square().mean(), 0.1)
    assert (module.weight - before).norm().item() == pytest.approx(0.1 * before.norm().item(), rel=1e-5)
