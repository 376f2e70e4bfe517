"""The pocket model's rows: what is held out is in none about slots, and hosts give nothing away."""

import numpy as np
import pytest

from stages.core.data import grammar
from stages.core.data.facts import Domain
from stages.core.data.held_out import Held, hold_out
from stages.core.data.questions import Question
from stages.core.model.corpus import ASKED, BATCH_NAMES, IGNORE, Corpus, Row
from stages.core.model.names import Lessons, make_tokenizer, permuted
from stages.core.model.section import Pocket
from tests.core.conftest import Real


@pytest.fixture(scope="module")
def real(real_domains: list[Domain], real_questions: dict[str, Question], real_params: Real) -> Corpus:
    """That of the real facts with the real params."""
    held, tokenizer = hold_out(real_domains, real_params.held_out), make_tokenizer(real_domains, real_questions)
    return Corpus(Lessons(real_domains, real_questions, held), tokenizer, real_params.model.pocket)


@pytest.fixture(scope="module")
def rows(real: Corpus) -> list[Row]:
    return [real.slots(0, index) for index in range(1500)]


@pytest.fixture(scope="module")
def corpus(
    small_domains: list[Domain], small_questions: dict[str, Question], small_held: Held, small_settings: Pocket
) -> Corpus:
    tokenizer = make_tokenizer(small_domains, small_questions)
    return Corpus(Lessons(small_domains, small_questions, small_held), tokenizer, small_settings)


def said(row: Row) -> list[int]:
    """The tokens that bear a loss."""
    return [token for token in row.labels if token != IGNORE]


def asked(row: Row) -> list[int]:
    """The tokens from the first slot to the end of the row: question and answer, without the host."""
    return row.ids[min((content.at for content in row.contents), default=0) :]


def holds(ids: list[int], part: tuple[int, ...]) -> bool:
    return any(tuple(ids[start : start + len(part)]) == part for start in range(len(ids)))


def test_a_closed_name_is_in_no_slot_and_in_no_report_or_label(real: Corpus, rows: list[Row]):
    """Held-out names, names of held-out kinds, and all names of relations that touch one."""
    slots = {token for row in rows for content in row.contents for token in (content.token, content.other)}
    labels = {token for row in rows for token in said(row)}
    assert len(real.closed_tokens) > 200
    assert not real.closed_tokens & slots and not real.closed_tokens & labels
    several = [real.encode(name) for name in real.held.closed if len(real.encode(name)) > 1]
    assert not any(holds(said(row), name) for row in rows for name in several)
    kinds = [real.encode(kind)[0] for kind in ("constellation", "element")]
    assert not any(kind in asked(row) for row in rows if row.contents for kind in kinds)


def test_closed_names_are_in_rows_of_facts(real: Corpus):
    """The model has to know them."""
    labels = {token for index in range(3000) for token in said(real.fact(0, index))}
    assert len(real.closed_tokens & labels) > 0.3 * len(real.closed_tokens)


def test_what_slots_are_asked_is_of_the_relations_that_are_asked_and_never_in_the_last_form_or_template(
    real: Corpus, rows: list[Row]
):
    relations = {name: relation for _, name, relation in real.world.relations}
    wanted = {template for name in real.asked for template in relations[name].templates[:-1]}
    assert {template for template, *_ in real.of_subjects} == wanted
    for name in ASKED:
        last = real.questions[name].forms[-1].rsplit("<opposite>", 1)[1]
        words = [real.encode(word)[0] for word in last.split() if "{" not in word]
        assert not any(holds(row.ids, tuple(words)) for row in rows), name


def test_a_row_is_the_same_whenever_it_is_drawn(real: Corpus):
    for draw in (real.slots, real.fact):
        drawn = {index: draw(3, index) for index in range(40)}
        assert all(draw(3, index) == drawn[index] for index in reversed(range(40)))
        assert [draw(4, index) for index in range(40)] != list(drawn.values())


def test_a_name_has_as_many_slots_as_tokens_and_they_hold_them_in_order(real: Corpus, rows: list[Row]):
    counts = set()
    toward = real.encode(grammar.PARTS[0])[0]
    for row in rows:
        at = [content.at for content in row.contents]
        opposites = [content.opposite_at for content in row.contents if content.opposite_at is not None]
        tokens = [content.token for content in row.contents if content.token is not None]
        if said(row)[:1] != [toward] or not at or not len(at) == len(opposites) == len(tokens):
            continue
        assert said(row)[1 : 1 + len(tokens)] == tokens
        assert at == list(range(at[0], at[0] + len(at)))
        assert opposites == list(range(opposites[0], opposites[0] + len(at)))
        assert all(row.ids[place] == real.slot for place in (*at, *opposites))
        counts.add(len(tokens))
    assert counts == {1, 2, 3}


def test_every_slot_is_a_slot_token_and_none_lies_in_the_answer(real: Corpus, rows: list[Row]):
    for row in rows:
        assert len(row.ids) == len(row.labels)
        first = next(place for place, label in enumerate(row.labels) if label != IGNORE)
        places = [place for content in row.contents for place in (content.at, content.opposite_at) if place is not None]
        assert all(row.ids[place] == real.slot and place <= first for place in places)
        assert len(set(places)) == len(places)
        assert not row.contents or set(places) == {at for at, token in enumerate(row.ids) if token == real.slot}


def test_half_of_what_is_reported_exists_for_one_batch_and_such_names_have_no_domain(real: Corpus):
    toward, field = (real.encode(part) for part in grammar.PARTS[:2])
    answers = {real.encode(name) for name in real.answers}
    new = known = 0
    for index in range(1500):
        rng = np.random.default_rng(index)
        to, away = real.pair(rng)
        row = real.report(rng, (), to, away)
        assert to != away and holds(said(row), (*toward, *to, *field))
        virtual = any(token >= real.vocabulary for token in to)
        new, known = new + virtual, known + (not virtual)
        begin = next(at for at, label in enumerate(row.labels) if label != IGNORE)
        behind = begin + len(toward) + len(to) + len(field)
        assert (row.labels[behind] == IGNORE) == (to not in real.domain_of) == (virtual or to not in answers)
    assert new > 400 and known > 400
    assert (
        real.vocabulary == len(real.tokenizer)
        and max(content.token or 0 for index in range(200) for content in real.slots(1, index).contents)
        < real.vocabulary + BATCH_NAMES
    )


def test_silence_is_zeros_or_untouched_slots_and_nothing_else_is(real: Corpus, rows: list[Row]):
    silence = [*real.encode(grammar.NO_PRESSURE), real.end]
    quiet = [row for row in rows if said(row) == silence]
    assert 0.02 * len(rows) < len(quiet) < 0.045 * len(rows)
    assert all(content.token is None for row in quiet for content in row.contents)
    assert {len(row.contents) for row in quiet} == {0, 1, 2, 3}
    assert {content.noise for row in quiet for content in row.contents} == {0.0}
    assert all(content.token is not None for row in rows if said(row) != silence for content in row.contents)
    assert all(row.contents for row in rows if said(row) != silence)


def test_yes_and_no_are_balanced_and_say_whether_the_name_is_of_the_kind(real: Corpus):
    yes, no = (real.encode(word)[0] for word in (grammar.YES, grammar.NO))
    drawn = [real.about_kind(np.random.default_rng(index), ()) for index in range(600)]
    said_yes = 0
    for row in drawn:
        text = str(real.tokenizer.decode(said(row)[:-1]))
        said_yes += said(row)[-2] == yes
        assert said(row)[-2] in (yes, no) and " is a " in text
        kinds = [kind for kind in real.answered_kinds if real.encode(kind)[0] in asked(row)[: -len(said(row))]]
        of = text.rsplit(" is a ", 1)[1].split()[0]
        assert (said(row)[-2] == yes) == (of in kinds)
    assert 240 < said_yes < 360


def test_other_hosts_in_front_of_the_same_slots_leave_the_answer(
    small_domains: list[Domain], small_questions: dict[str, Question], small_held: Held, small_settings: Pocket,
    corpus: Corpus,
):  # fmt: skip
    """The same draws with other prompts in the pool: hosts change, slots and answers stay."""
    tokenizer = make_tokenizer(small_domains, small_questions)
    other = Corpus(Lessons(small_domains, small_questions, small_held), tokenizer, small_settings)
    other.prompts = [(ids[::-1], answer) for ids, answer in corpus.prompts]
    changed = 0
    for index in range(400):
        one, two = corpus.slots(0, index), other.slots(0, index)
        assert one.contents == two.contents and said(one) == said(two)
        changed += one.ids != two.ids
    assert changed > 80


def test_hosts_are_nothing_words_in_no_order_prompts_and_statements(corpus: Corpus):
    hosts = [tuple(corpus.host(np.random.default_rng(index))) for index in range(600)]
    prompts = {ids for ids, _ in corpus.prompts}
    of_prompts = [ids in prompts for ids in hosts]
    statements = [any(ids[:end] in prompts for end in range(len(ids))) for ids in hosts]
    assert 0.25 < np.mean(of_prompts) < 0.45 and 0.05 < np.mean(statements) < 0.15
    assert 0.33 < np.mean([not ids for ids in hosts]) < 0.47
    assert not any(corpus.slot in ids for ids in hosts)


def test_facts_bear_loss_on_answer_and_end_alone(corpus: Corpus):
    for index in range(80):
        row = corpus.fact(0, index)
        wanted = said(row)
        assert len(row.ids) == len(row.labels) and wanted[-1] == corpus.end and not row.contents
        assert row.labels[-len(wanted) :] == wanted and row.ids[len(row.ids) - len(wanted) + 1 :] == wanted[:-1]


def test_permuted_facts_deal_the_answers_of_each_relation_anew(real_domains: list[Domain]):
    dealt, same, facts = permuted(real_domains, 2), 0, 0
    for before, after in zip(real_domains, dealt, strict=True):
        for name, relation in before.relations.items():
            other = after.relations[name]
            assert [fact.subject for fact in relation.facts] == [fact.subject for fact in other.facts]
            assert sorted(fact.answer for fact in relation.facts) == sorted(fact.answer for fact in other.facts)
            pairs = [(one.answer, two.answer) for one, two in zip(relation.facts, other.facts, strict=True)]
            same, facts = same + sum(one == two for one, two in pairs), facts + len(pairs)
    assert same < 0.25 * facts
    assert permuted(real_domains, 2) == dealt != permuted(real_domains, 3)
    assert permuted(real_domains[1:2], 2) == dealt[1:2]


def test_a_relation_to_ask_about_has_to_be_there(
    small_domains: list[Domain], small_questions: dict[str, Question], small_held: Held, small_settings: Pocket
):
    settings = small_settings.model_copy(update={"asked": ["capitol"]})
    tokenizer = make_tokenizer(small_domains, small_questions)
    with pytest.raises(ValueError, match=r"params.yaml: model.pocket.asked: found 'capitol', wanted .* capital"):
        Corpus(Lessons(small_domains, small_questions, small_held), tokenizer, settings)


def test_a_question_without_a_place_for_the_negative_has_no_slots_for_it(
    small_domains: list[Domain], small_questions: dict[str, Question], small_held: Held, small_settings: Pocket
):
    forms = tuple(form.replace(" away <opposite>", "") for form in small_questions["report"].forms)
    questions = small_questions | {"report": small_questions["report"].model_copy(update={"forms": forms})}
    tokenizer = make_tokenizer(small_domains, questions)
    corpus = Corpus(Lessons(small_domains, questions, small_held), tokenizer, small_settings)
    for index in range(60):
        rng = np.random.default_rng(index)
        for row in (corpus.report(rng, (), *corpus.pair(rng)), corpus.silent(rng)):
            assert all(content.opposite_at is None for content in row.contents)
            assert {content.at for content in row.contents} in (set(), {
                at for at, token in enumerate(row.ids) if token == corpus.slot
            })  # fmt: skip
