"""Splits leak nothing: shown on the real facts with the real params."""

import polars as pl
import pytest

from stages.core.data.corrections import Prompts, make_prompts
from stages.core.data.facts import Domain
from stages.core.data.held_out import Held, HeldOut, hold_out
from tests.core.conftest import Real


@pytest.fixture(scope="module")
def settings(real_params: Real) -> Prompts:
    return real_params.prompts


@pytest.fixture(scope="module")
def out(real_params: Real) -> HeldOut:
    return real_params.held_out


@pytest.fixture(scope="module")
def rows(real_domains: list[Domain], settings: Prompts, out: HeldOut) -> pl.DataFrame:
    return pl.concat([make_prompts(domain, settings, out) for domain in real_domains])


@pytest.fixture(scope="module")
def held(real_domains: list[Domain], out: HeldOut) -> Held:
    return hold_out(real_domains, out)


TRAINS = pl.col("split") == "train"
WHOLE = ["domain", "relation"]


def test_every_split_and_every_reason_has_rows_of_every_domain(
    rows: pl.DataFrame, real_domains: list[Domain], out: HeldOut
):
    """But for subjects in a domain with a held-out kind: of few relations that are left, none may be drawn."""
    groups = rows.select("domain", "split", "held_out").unique()
    kinds = groups.filter(pl.col("held_out") == "kind")
    assert set(kinds["split"]) == {"test"} and kinds["domain"].n_unique() == len(out.kinds)
    for reason, splits in {
        "none": {"train", "validation", "test"},
        "target": {"test"},
        "answer": {"test"},
        "subject": {"test"},
        "template": {"test"},
    }.items():
        for name in [domain.domain for domain in real_domains]:
            found = groups.filter((pl.col("domain") == name) & (pl.col("held_out") == reason))["split"]
            few = reason == "subject" and name in set(kinds["domain"])
            assert set(found) == splits or (few and not len(found)), (name, reason)


def test_what_is_held_out_never_trains(rows: pl.DataFrame):
    assert set(rows.filter(TRAINS)["held_out"]) == {"none"}


def test_a_held_out_name_is_neither_target_nor_answer_of_a_row_that_is_not_of_the_test_split(
    rows: pl.DataFrame, held: Held
):
    named = pl.col("target").is_in(list(held.names)) | pl.col("answer").is_in(list(held.names))
    assert set(rows.filter(named)["split"]) == {"test"}
    assert not set(rows.filter(named)["held_out"]) & {"none", "subject", "template"}


def test_the_reason_says_which_of_the_names_is_held_out_and_whether_its_kind_is(
    rows: pl.DataFrame, real_domains: list[Domain], held: Held, out: HeldOut
):
    """A relation is of a held-out kind by its subjects or by its answers."""
    relations = {
        (domain.domain, name): relation for domain in real_domains for name, relation in domain.relations.items()
    }
    for row in rows.filter(pl.col("held_out").is_in(["kind", "target", "answer"])).iter_rows(named=True):
        relation = relations[row["domain"], row["relation"]]
        of_kind = bool({relation.subject, relation.answer} & set(out.kinds))
        truth = row["answer"] if row["kind"] == "counterfactual" else row["target"]
        wanted = "kind" if of_kind else "target" if row["target"] in held.names else "answer"
        names = {row["target"], truth} | ({row["subject"]} if of_kind else set())
        assert row["held_out"] == wanted and names & held.names


@pytest.mark.parametrize(("reason", "identity"), [("subject", [*WHOLE, "subject"]), ("template", [*WHOLE, "template"])])
def test_an_identity_that_is_held_out_stands_in_no_row_of_another_split(
    rows: pl.DataFrame, reason: str, identity: list[str]
):
    out = rows.filter(pl.col("held_out") == reason).select(*identity, held="split").unique()
    assert out.select(identity).is_unique().all()
    for row in rows.join(out, on=identity).select("split", "held").unique().iter_rows():
        assert row[0] == row[1]


def test_a_row_has_one_reason(rows: pl.DataFrame, held: Held):
    """What is held out for its subject or template has no held-out name, and so on."""
    identities = {"subject": [*WHOLE, "subject"], "template": [*WHOLE, "template"]}
    parts = {reason: rows.filter(pl.col("held_out") == reason) for reason in (*identities, "target", "answer", "kind")}
    for reason, identity in identities.items():
        own = set(parts[reason].select(identity).iter_rows())
        assert not own & set(rows.filter(TRAINS).select(identity).iter_rows())
        for other in parts.keys() - {reason}:
            assert not own & set(parts[other].select(identity).iter_rows()), (reason, other)
        assert not {*parts[reason]["target"], *parts[reason]["answer"]} & held.names


def test_a_prompt_of_which_nothing_is_held_out_stands_in_one_split(rows: pl.DataFrame):
    seen = rows.filter(pl.col("held_out") == "none")
    assert seen.group_by("prompt").agg(pl.col("split").n_unique())["split"].max() == 1


def test_prompts_are_known_by_their_id(rows: pl.DataFrame):
    assert rows["prompt_id"].is_unique().all() and set(rows["prompt_id"].str.len_chars()) == {16}


def test_targets_are_other_entities_of_the_relation_and_corrections_the_truth(
    rows: pl.DataFrame, real_domains: list[Domain], settings: Prompts
):
    relations = {
        (domain.domain, name): relation for domain in real_domains for name, relation in domain.relations.items()
    }
    for (domain, name, subject, kind), part in rows.group_by("domain", "relation", "subject", "kind"):
        relation = relations[str(domain), str(name)]
        truth = next(fact.answer for fact in relation.facts if fact.subject == subject)
        if kind == "correction":
            assert set(part["target"]) == {truth} and part["answer"].is_null().all()
            assert set(part["template"]) <= set(relation.templates[: settings.correction_templates])
        else:
            own = part.filter(pl.col("target").is_in(list(relation.entities)))
            assert set(part["answer"]) == {truth} and truth not in set(part["target"])
            for (_,), targets in own.group_by("prompt"):
                assert targets["target"].is_unique().all() and len(targets) <= settings.targets


def test_further_targets_answer_other_relations_of_the_domain_and_never_test(
    rows: pl.DataFrame, real_domains: list[Domain], settings: Prompts, held: Held
):
    found = 0
    for domain in real_domains:
        names = {name for relation in domain.relations.values() for name in relation.entities}
        own = rows.filter((pl.col("domain") == domain.domain) & (pl.col("kind") == "counterfactual"))
        for (relation,), part in own.group_by("relation"):
            further = part.filter(~pl.col("target").is_in(list(domain.relations[str(relation)].entities)))
            assert set(further["target"]) <= names - held.names and set(further["split"]) <= {"train"}
            for (_,), targets in further.group_by("prompt"):
                assert targets["target"].is_unique().all() and len(targets) <= settings.further_targets
            found += len(further)
    assert found > 5000


def test_some_targets_have_several_words(rows: pl.DataFrame):
    assert rows["target"].str.contains(" ").mean() > 0.05  # type: ignore[operator]


def test_the_rows_of_a_fact_do_not_depend_on_the_facts_after_it(
    real_domains: list[Domain], settings: Prompts, out: HeldOut
):
    """Splits are keyed on the row itself: another fact with an answer that is there already moves none."""
    domain = real_domains[0]
    name, relation = next(iter(domain.relations.items()))
    again = relation.facts[0].model_copy(update={"subject": "Something else"})
    longer = relation.model_copy(update={"facts": (*relation.facts, again)})
    more = make_prompts(domain.model_copy(update={"relations": {**domain.relations, name: longer}}), settings, out)
    before = make_prompts(domain, settings, out)
    assert more.filter(pl.col("subject") != "Something else").equals(before)
    assert len(more) > len(before)


def test_a_share_of_nothing_holds_out_nothing(real_domains: list[Domain], settings: Prompts, out: HeldOut):
    none = out.model_copy(update={"names": 0.0, "subjects": 0.0, "kinds": []})
    assert set(make_prompts(real_domains[0], settings, none)["held_out"]) == {"none", "template"}
