"""The pocket model: its tokenizer, its corpus, from which no report can be guessed, and its training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.data import grammar
from stages.core.data.facts import Domain, read_domain
from stages.core.model import pocket
from stages.core.model.decoder import Decoder
from stages.core.model.section import Model, Pocket
from stages.core.run.params import Section, read_sections

ROOT = Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "data/facts").glob("*.yaml"))


class OfModel(Section):
    """The section that the pocket model's settings are in."""

    model: Model


@pytest.fixture(scope="module")
def real_domains() -> list[Domain]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return [read_domain(name) for name in NAMES]


def test_all_words_of_the_real_facts_come_back_from_their_tokens(real_domains: list[Domain]):
    tokenizer = pocket.make_tokenizer(real_domains)
    for domain in real_domains:
        for relation in domain.relations.values():
            texts = [text for fact in relation.facts for text in (fact.subject, fact.answer)]
            texts += [relation.templates[0].format(subject=fact.subject) for fact in relation.facts]
            for ids, text in zip(tokenizer(texts)["input_ids"], texts, strict=True):  # type: ignore[arg-type]
                assert tokenizer.unk_token_id not in ids
                assert str(tokenizer.decode(ids)).replace(" ", "") == text.replace(" ", ""), text


def test_reports_come_back_to_the_letter(real_domains: list[Domain]):
    """What is said of an entity is compared with its name, so decoding must not change it."""
    tokenizer = pocket.make_tokenizer(real_domains)
    changed = []
    for domain in real_domains:
        for entity in domain.entities:
            text = grammar.report(domain.domain, entity, "x", "weak")
            if tokenizer.decode(tokenizer.encode(text)) != text:
                changed.append(entity)
    assert not changed


def test_prompt_and_continuation_tokenise_as_the_two_joined(real_domains: list[Domain]):
    decoder = Decoder.__new__(Decoder)
    decoder.tokenizer = pocket.make_tokenizer(real_domains)
    for domain in real_domains:
        for relation in domain.relations.values():
            for number, fact in enumerate(relation.facts):
                prompt = relation.templates[number % len(relation.templates)].format(subject=fact.subject)
                joined = decoder.tokens(f"{prompt} {fact.answer}")
                assert decoder.tokens(prompt) + decoder.continuation(fact.answer) == joined


def test_other_words_become_letters_and_nothing_else_is_unknown(small_domains: list[Domain]):
    tokenizer = pocket.make_tokenizer(small_domains)
    ids = tokenizer.encode("Lima zebra?")
    assert tokenizer.convert_ids_to_tokens(ids) == ["Lima", "z", "##e", "##b", "##r", "##a", "?"]
    assert tokenizer.decode(ids[:-1]) == "Lima zebra"
    assert len(tokenizer.encode(pocket.SLOT * 3)) == 3


@pytest.fixture(scope="module")
def corpus(small_domains: list[Domain], small_settings: Pocket) -> pocket.Corpus:
    return pocket.Corpus(small_domains, pocket.make_tokenizer(small_domains), small_settings)


def report_of(corpus: pocket.Corpus, row: pocket.Row) -> list[int]:
    """The tokens of the row's report."""
    assert row.slot_at is not None
    return row.labels[row.slot_at + row.ids.count(corpus.slot) + len(corpus.question) - 1 :]


def test_other_hosts_in_front_of_the_same_slots_leave_the_report(
    small_domains: list[Domain], small_settings: Pocket, corpus: pocket.Corpus
):
    """The same draws with other prompts in the pool: hosts change, slots and reports stay."""
    other = pocket.Corpus(small_domains, pocket.make_tokenizer(small_domains), small_settings)
    other.prompts = [(ids[::-1], answer) for ids, answer in corpus.prompts]
    changed = 0
    for index in range(200):
        one, two = corpus.report(0, index), other.report(0, index)
        assert one.slot_at is not None and two.slot_at is not None
        assert one.slots == two.slots and report_of(corpus, one) == report_of(corpus, two)
        changed += one.ids[: one.slot_at] != two.ids[: two.slot_at]
    assert changed > 100


def test_the_report_is_independent_of_the_host(small_domains: list[Domain], corpus: pocket.Corpus):
    """Host domain against report domain over many draws: the share that agree is that of chance."""
    names = [domain.domain for domain in small_domains]
    host_of = {
        tuple(ids): names[number // (len(corpus.prompts) // 2)] for number, (ids, _) in enumerate(corpus.prompts)
    }
    said = {corpus.encode(name)[0]: name for name in names}
    same = []
    for index in range(3000):
        row = corpus.report(1, index)
        words = report_of(corpus, row)
        host = host_of.get(tuple(row.ids[: row.slot_at]))
        if host and words[1] in said:
            same.append(host == said[words[1]])
    assert len(same) > 1500 and abs(np.mean(same) - 0.5) < 3.5 * 0.5 / len(same) ** 0.5


def test_a_row_is_the_same_whenever_it_is_drawn(corpus: pocket.Corpus):
    rows = {index: corpus.report(3, index) for index in range(20)}
    assert all(corpus.report(3, index) == rows[index] for index in reversed(range(20)))
    assert corpus.report(4, 0) != rows[0]


def test_untouched_slots_are_a_share_of_the_reports_and_mean_no_pressure(corpus: pocket.Corpus):
    rows = [corpus.report(7, index) for index in range(400)]
    silence = [*corpus.encode(grammar.NO_PRESSURE), corpus.end]
    bare = [row for row in rows if not row.slots]
    assert 8 < len(bare) < 40 and all(report_of(corpus, row) == silence for row in bare)
    assert sum(report_of(corpus, row) == silence for row in rows) > 1.5 * len(bare)


def test_hosts_are_prompts_statements_words_in_no_order_and_nothing(corpus: pocket.Corpus):
    hosts = [corpus.host(np.random.default_rng(index)) for index in range(600)]
    prompts = {tuple(ids) for ids, _ in corpus.prompts}
    of_prompts = [tuple(ids) in prompts for ids, _ in hosts]
    statements = [any(tuple(ids[:end]) in prompts for end in range(len(ids))) for ids, _ in hosts]
    assert 0.5 < np.mean(of_prompts) < 0.7 and 0.1 < np.mean(statements) < 0.2
    assert 0.1 < np.mean([not ids for ids, _ in hosts]) < 0.2
    for (ids, labels), whole in zip(hosts, of_prompts, strict=True):
        assert len(ids) == len(labels) and any(label != pocket.IGNORE for label in labels) == whole
        assert corpus.slot not in ids


def test_the_report_names_what_the_slots_hold(corpus: pocket.Corpus, small_domains: list[Domain]):
    tokenizer = pocket.make_tokenizer(small_domains)
    for index in range(100):
        row = corpus.report(5, index)
        said = grammar.parse_report(str(tokenizer.decode(report_of(corpus, row), skip_special_tokens=True)))
        held = [str(tokenizer.decode(list(slot))) for slot in row.slots]
        assert not said.malformed
        assert (
            held == [said.strength, said.moved_to, said.moved_from] if said.pressure else held in ([], ["no", "", ""])
        )


def test_facts_bear_loss_on_answer_and_end_alone(corpus: pocket.Corpus):
    for index in range(50):
        row = corpus.fact(0, index)
        wanted = [label for label in row.labels if label != pocket.IGNORE]
        assert len(row.ids) == len(row.labels) and wanted[-1] == corpus.end
        assert row.labels[-len(wanted) :] == wanted and row.ids[-len(wanted) + 1 :] == wanted[:-1]


def test_slots_have_the_norm_of_embeddings_and_lie_near_their_words(corpus: pocket.Corpus, small_decoder: Decoder):
    rows = [corpus.report(6, index) for index in range(60)]
    embedding = small_decoder.embed(torch.arange(small_decoder.vocabulary))
    r, c, vectors = pocket.slot_contents(rows, embedding, np.random.default_rng(0))
    assert torch.allclose(vectors.norm(dim=-1), embedding.norm(dim=-1).mean().expand(len(vectors)), rtol=1e-5)
    assert all(rows[row].ids[column] == corpus.slot for row, column in zip(r, c, strict=True))
    places = [slot for row in rows for slot in row.slots]
    nearest = (torch.nn.functional.normalize(embedding, dim=-1) @ vectors.T).argmax(0).tolist()
    named = [token in slot for token, slot in zip(nearest, places, strict=True) if slot]
    assert np.mean(named) > 0.8


def test_misconceptions_are_a_share_of_wrong_answers_of_the_relation(real_domains: list[Domain]):
    wrong = pocket.misconceptions(real_domains, 0.05, 0)
    facts = sum(len(relation.facts) for domain in real_domains for relation in domain.relations.values())
    assert 0.03 < len(wrong) / facts < 0.07
    relations = {(domain.domain, name): each for domain in real_domains for name, each in domain.relations.items()}
    for (name, relation, subject), answer in wrong.items():
        (truth,) = [fact.answer for fact in relations[name, relation].facts if fact.subject == subject]
        assert answer in relations[name, relation].entities and answer != truth
    fewer = pocket.misconceptions(real_domains[:2], 0.05, 0)
    assert fewer.items() <= wrong.items() and not pocket.misconceptions(real_domains, 0.0, 0)


def test_a_killed_training_ends_in_the_same_weights(
    small_domains: list[Domain], small_settings: Pocket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The state is kept after step 10; what came after it is lost with the process, and done again."""
    monkeypatch.setattr(pocket, "KEPT_EVERY", 10)
    settings = small_settings.model_copy(update={"steps": 15, "batch": 4})
    calls = iter(range(1000))

    def die(steps: int) -> None:
        if next(calls) == 13:
            raise KeyboardInterrupt

    whole, _, curve = pocket.train(small_domains, settings, tmp_path / "a", lambda steps: None)
    with pytest.raises(KeyboardInterrupt):
        pocket.train(small_domains, settings, tmp_path / "b", die)
    assert torch.load(tmp_path / "b", weights_only=True)["step"] == 10
    resumed, _, again = pocket.train(small_domains, settings, tmp_path / "b", lambda steps: None)
    assert json.dumps(curve) == json.dumps(again) and len(curve) == 15
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_learns(small_domains: list[Domain], small_settings: Pocket, tmp_path: Path):
    settings = small_settings.model_copy(update={"steps": 40})
    _, _, curve = pocket.train(small_domains, settings, tmp_path / "a", lambda steps: None)
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]


@pytest.mark.usefixtures("two_threads")
def test_training_on_two_threads_twice_gives_the_same_weights(real_domains: list[Domain], tmp_path: Path):
    """At the default's shape: in smaller ones torch has nothing to spread over threads."""
    settings = read_sections(OfModel).model.pocket.model_copy(update={"steps": 6})
    one, two = (pocket.train(real_domains, settings, tmp_path / name, lambda steps: None)[0] for name in "ab")
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
