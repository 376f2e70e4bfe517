"""The pocket model: its tokenizer and its training. Its rows: test_corpus.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.core.data import grammar
from stages.core.data.facts import Domain
from stages.core.data.held_out import Held, hold_out
from stages.core.data.questions import Question
from stages.core.model import pocket
from stages.core.model.corpus import BATCH_NAMES, Content, Corpus, Row
from stages.core.model.decoder import Decoder
from stages.core.model.names import SLOT, Lessons, make_tokenizer, misconceptions
from stages.core.model.section import Pocket
from tests.core.conftest import QUIET, Real


def test_all_words_of_the_real_facts_come_back_from_their_tokens(
    real_domains: list[Domain], real_questions: dict[str, Question]
):
    tokenizer = make_tokenizer(real_domains, real_questions)
    for domain in real_domains:
        for relation in domain.relations.values():
            texts = [text for fact in relation.facts for text in (fact.subject, fact.answer)]
            texts += [relation.templates[0].format(subject=fact.subject) for fact in relation.facts]
            for ids, text in zip(tokenizer(texts)["input_ids"], texts, strict=True):  # type: ignore[arg-type]
                assert tokenizer.unk_token_id not in ids
                assert str(tokenizer.decode(ids)).replace(" ", "") == text.replace(" ", ""), text


def test_reports_come_back_and_read_as_what_they_said(real_domains: list[Domain], real_questions: dict[str, Question]):
    """What is said of an entity is compared with its name, so decoding must not change it."""
    tokenizer = make_tokenizer(real_domains, real_questions)
    for domain in real_domains:
        for entity in domain.entities:
            text = str(tokenizer.decode(tokenizer.encode(grammar.report(domain.domain, entity, "x"))))
            wanted = grammar.Report(domain=domain.domain, moved_to=entity, moved_from="x")
            assert grammar.parse_report(text) == wanted


def test_all_words_of_questions_are_words_of_the_vocabulary(
    real_domains: list[Domain], real_questions: dict[str, Question]
):
    tokenizer = make_tokenizer(real_domains, real_questions)
    for form in (form for question in real_questions.values() for form in question.forms):
        bare = form.replace("<felt>", "").replace("<opposite>", "").format(kind="city", one="Paris", other="Rome")
        assert not any(token.startswith("##") for token in tokenizer.tokenize(bare)), form


def test_prompt_and_continuation_tokenise_as_the_two_joined(
    real_domains: list[Domain], real_questions: dict[str, Question]
):
    decoder = Decoder.__new__(Decoder)
    decoder.tokenizer = make_tokenizer(real_domains, real_questions)
    for domain in real_domains:
        for relation in domain.relations.values():
            for number, fact in enumerate(relation.facts):
                prompt = relation.templates[number % len(relation.templates)].format(subject=fact.subject)
                joined = decoder.tokens(f"{prompt} {fact.answer}")
                assert decoder.tokens(prompt) + decoder.continuation(fact.answer) == joined


def test_other_words_become_letters_and_nothing_else_is_unknown(
    small_domains: list[Domain], small_questions: dict[str, Question]
):
    tokenizer = make_tokenizer(small_domains, small_questions)
    ids = tokenizer.encode("Lima zebra?")
    assert tokenizer.convert_ids_to_tokens(ids) == ["Lima", "z", "##e", "##b", "##r", "##a", "?"]
    assert tokenizer.decode(ids[:-1]) == "Lima zebra"
    assert len(tokenizer.encode(SLOT * 3)) == 3


NORM = torch.tensor(3.0)


def unit(seed: int, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_slots_hold_what_their_contents_say_at_the_norm_of_embeddings(monkeypatch: pytest.MonkeyPatch):
    """Toward one word, away from another in its share, nothing along what the model says; elsewhere the negative."""
    monkeypatch.setattr(pocket, "LEANS", (1.0, 1.0))  # so that the activation is the word's embedding
    table, embeds = unit(0, 10 + BATCH_NAMES, 8), torch.zeros(2, 6, 8)
    rows = [
        Row([0] * 6, [], (Content(1, 4, 12, 3, 0.5, 0.0, 3), Content(2, None, 5, 6, 0.7, 0.0, 5))),
        Row([0] * 6, [], (Content(0, 5, None, 0, 0.0, 0.0, 0),)),
    ]
    found = pocket.fill(embeds, rows, table, table[4:10], NORM, np.random.default_rng(0))

    def without(vector: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
        return 3 * F.normalize(vector - (vector @ along) * along, dim=-1)

    direction = F.normalize(table, dim=-1)
    wanted = without(direction[12] - 0.5 * direction[3], direction[3])
    torch.testing.assert_close(found[0, 1], wanted)
    torch.testing.assert_close(found[0, 4], -wanted)
    torch.testing.assert_close(found[0, 2], without(direction[5] - 0.7 * direction[6], direction[5]))
    assert not found[1].any() and not found[0, [0, 3, 5]].any()


def test_contents_are_like_gradients_of_the_head_s_loss_before_a_norm():
    """For an activation that leans to what the model says: the gradient of -log p(token), p all on `said`, negated."""
    table = unit(0, 10 + BATCH_NAMES, 64)
    rows = [Row([0] * 2, [], (Content(0, 1, 5, 6, 1.0, 0.0, 6),)) for _ in range(300)]
    found = pocket.fill(torch.zeros(300, 2, 64), rows, table, table[4:10], NORM, np.random.default_rng(0))[:, 0]
    h = F.normalize(0.67 * table[6] + 0.74 * unit(1, 300, 64), dim=-1).requires_grad_()
    (F.rms_norm(h, (64,)) @ (table[6] - table[5])).sum().backward()
    assert h.grad is not None
    for word in (table[5], table[6]):
        ours, real = (F.cosine_similarity(vectors, word[None], dim=-1).mean() for vectors in (found, -h.grad))
        assert abs(ours - real) < 0.1


def test_noise_has_the_norm_that_its_content_says_and_its_own_negative():
    table = unit(0, 10 + BATCH_NAMES, 64)
    rows = [Row([0] * 3, [], (Content(0, 1, 5, 6, 0.0, 1.0, 6),)) for _ in range(400)]
    rows += [Row([0] * 3, [], (Content(0, 1, None, 0, 0.0, 1.0, 0),))]
    found = pocket.fill(torch.zeros(401, 3, 64), rows, table, table[4:10], NORM, np.random.default_rng(0))
    assert torch.equal(found[:, 0], -found[:, 1])
    torch.testing.assert_close(found[:, 0].norm(dim=-1), torch.full((401,), 3.0))
    cosines = F.cosine_similarity(found[:400, 0], table[5][None], dim=-1)
    assert 0.6 < cosines.median() < 0.8 and abs(F.cosine_similarity(found[400, 0], table[5], dim=-1)) < 0.6


def test_words_of_closed_names_are_no_negatives_of_a_name_and_are_of_fixed_wording(
    real_domains: list[Domain], real_questions: dict[str, Question], real_params: Real
):
    held, tokenizer = hold_out(real_domains, real_params.held_out), make_tokenizer(real_domains, real_questions)
    corpus = Corpus(Lessons(real_domains, real_questions, held), tokenizer, real_params.model.pocket)
    loss = pocket.SlotLoss(corpus)
    open_ids = {token for name in corpus.open_names for token in corpus.encode(name)}
    for name in held.closed:
        alone = [token for token in corpus.encode(name) if token not in open_ids and token not in loss.fixed]
        assert loss.closed[alone].all()
    assert not loss.closed[sorted(open_ids)].any() and not loss.closed[loss.fixed].any()
    assert not loss.closed[len(tokenizer) :].any() and loss.closed.sum() > 200

    model = pocket.new_model(real_params.model.pocket, tokenizer)
    model.model.embed_tokens.weight.requires_grad_()
    end = Row([5, corpus.slot], [pocket.IGNORE, corpus.end], ())
    name = Row([5, 6], [pocket.IGNORE, next(iter(open_ids))], ())
    one = torch.nonzero(loss.closed)[0].item()
    for row, negative in ((name, False), (end, True)):
        model.zero_grad()
        filled = [row, Row([5, 6], [pocket.IGNORE] * 2, contents_of(6))]
        loss(model, filled, np.random.default_rng(0)).backward()
        assert bool(model.model.embed_tokens.weight.grad[one].any()) == negative  # type: ignore[index]


def contents_of(token: int) -> tuple[Content, ...]:
    return (Content(0, 1, token, token + 1, 0.0, 0.0, token + 1),)


def test_misconceptions_are_a_share_of_wrong_answers_of_the_relation(real_domains: list[Domain]):
    wrong = misconceptions(real_domains, 0.05, 0)
    facts = sum(len(relation.facts) for domain in real_domains for relation in domain.relations.values())
    assert 0.03 < len(wrong) / facts < 0.07
    relations = {(domain.domain, name): each for domain in real_domains for name, each in domain.relations.items()}
    for (name, relation, subject), answer in wrong.items():
        (truth,) = [fact.answer for fact in relations[name, relation].facts if fact.subject == subject]
        assert answer in relations[name, relation].entities and answer != truth
    fewer = misconceptions(real_domains[:2], 0.05, 0)
    assert fewer.items() <= wrong.items() and not misconceptions(real_domains, 0.0, 0)


@pytest.fixture
def taught(small_domains: list[Domain], small_questions: dict[str, Question], small_held: Held) -> Lessons:
    return Lessons(small_domains, small_questions, small_held)


def test_a_killed_training_ends_in_the_same_weights(
    taught: Lessons,
    small_settings: Pocket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The state is kept after step 10; what came after it is lost with the process, and done again."""
    monkeypatch.setattr(pocket, "KEPT_EVERY", 10)
    settings = small_settings.model_copy(update={"steps": 15, "batch": 4, "slot_batch": 6})
    calls = iter(range(1000))

    def die(steps: int) -> None:
        if next(calls) == 13:
            raise KeyboardInterrupt

    whole, _, curve = pocket.train(taught, settings, tmp_path / "a", QUIET)
    with pytest.raises(KeyboardInterrupt):
        pocket.train(taught, settings, tmp_path / "b", die)
    assert torch.load(tmp_path / "b", weights_only=True)["step"] == 10
    resumed, _, again = pocket.train(taught, settings, tmp_path / "b", QUIET)
    assert json.dumps(curve) == json.dumps(again) and len(curve) == 15
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_learns(taught: Lessons, small_settings: Pocket, tmp_path: Path):
    settings = small_settings.model_copy(update={"steps": 40, "slot_batch": 24})
    _, _, curve = pocket.train(taught, settings, tmp_path / "a", QUIET)
    assert curve[-1]["facts"] < 0.6 * curve[0]["facts"] and curve[-1]["slots"] < 0.8 * curve[0]["slots"]


def test_a_model_of_permuted_facts_is_taught_other_facts(
    taught: Lessons,
    small_settings: Pocket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    seen = []
    monkeypatch.setattr(pocket, "Corpus", lambda lessons, *rest: seen.append(lessons.domains) or Corpus(lessons, *rest))
    settings = small_settings.model_copy(update={"steps": 1, "batch": 2, "slot_batch": 6})
    for permuted in (False, True):
        pocket.train(taught, settings.model_copy(update={"permuted": permuted}), tmp_path / f"{permuted}", QUIET)
    assert seen[0] == taught.domains and seen[1] == pocket.permuted(taught.domains, settings.seed) != taught.domains


def test_the_trained_small_model_knows_its_facts(trained_decoder: Decoder, small_domains: list[Domain]):
    right = [
        int(trained_decoder.model(input_ids=torch.tensor([trained_decoder.tokens(prompt)])).logits[0, -1].argmax())
        == trained_decoder.continuation(fact.answer)[0]
        for domain in small_domains
        for relation in domain.relations.values()
        for fact in relation.facts
        for prompt in [template.format(subject=fact.subject) for template in relation.templates]
    ]
    assert np.mean(right) > 0.9


def test_training_gives_the_same_weights_on_any_number_of_threads(
    real_domains: list[Domain],
    real_questions: dict[str, Question],
    tmp_path: Path,
    real_params: Real,
    request: pytest.FixtureRequest,
):
    """At the default's shape: in smaller ones torch has nothing to spread over threads."""
    settings = real_params.model.pocket.model_copy(update={"steps": 3})
    lessons = Lessons(real_domains, real_questions, hold_out(real_domains, real_params.held_out))
    one = pocket.train(lessons, settings, tmp_path / "a", QUIET)[0]
    request.getfixturevalue("two_threads")
    assert torch.get_num_threads() == 2
    two = pocket.train(lessons, settings, tmp_path / "b", QUIET)[0]
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
