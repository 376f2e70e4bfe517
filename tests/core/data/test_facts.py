"""The real facts keep the experiment's promises, and a broken facts file is refused by name and key."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.core.data.facts import Domain, World, read_domain
from stages.core.labels.lexicon import words

ROOT = Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "data/facts").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def world() -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return World.of(tuple(map(read_domain, NAMES)))


def test_there_are_nine_domains_or_more():
    assert len(NAMES) >= 9


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_has_enough_facts_answers_relations_and_templates(name: str):
    domain = read_domain(name)
    assert sum(len(relation.facts) for relation in domain.relations.values()) >= 100
    assert len(domain.entities) >= 60
    assert len(domain.relations) >= 2
    assert all(len(relation.templates) == 3 and relation.source for relation in domain.relations.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_gives_a_word_of_its_answer_away(name: str):
    for relation in read_domain(name).relations.values():
        for fact in relation.facts:
            for template in relation.templates:
                assert not set(words(fact.answer)) & set(words(template.format(subject=fact.subject)))


def test_no_answer_and_no_prompt_stands_twice_among_domains_and_relations():
    answers: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for name in NAMES:
        for key, relation in read_domain(name).relations.items():
            for fact in relation.facts:
                assert answers.setdefault(fact.answer, name) == name
                for template in relation.templates:
                    prompt = template.format(subject=fact.subject)
                    assert prompts.setdefault(prompt, f"{name} {key} {fact.answer}") == f"{name} {key} {fact.answer}"


def test_the_world_is_bridged(world: World):
    """At least 400 entities are asked about that are answers elsewhere, in every domain and by a dozen relations."""
    assert len(world.bridges) >= 400 and list(world.bridges) == sorted(set(world.bridges))
    kinds = Counter(world.kinds[entity] for entity in world.bridges)
    first = [name for _, name, relation in world.relations if set(relation.entities) & set(world.bridges)]
    second = [name for kind in kinds for _, name, _ in world.questions(kind)]
    assert len(first) >= 12 and len(second) >= 12 and sum(number >= 25 for number in kinds.values()) >= 8
    assert {world.domains[kind] for kind in kinds} == set(NAMES)


def test_names_of_several_words_bridge_too_and_some_share_their_first(world: World):
    several = [entity for entity in world.bridges if " " in entity]
    firsts = Counter(entity.split()[0] for entity in world.bridges)
    assert len(world.bridges) / 4 <= len(several) <= len(world.bridges) / 2
    assert max(len(entity.split()) for entity in several) <= 3
    assert sum(firsts[entity.split()[0]] > 1 for entity in several) >= len(several) / 3


def test_no_name_of_the_world_is_another_s_beginning_or_differs_in_case_only(world: World):
    """What a model writes is compared with names from its first word on, in whatever case."""
    folded = {tuple(words(entity)) for _, _, relation in world.relations for entity in relation.entities}
    assert len(folded) == len({entity for _, _, relation in world.relations for entity in relation.entities})
    assert not [name for name in folded for length in range(1, len(name)) if name[:length] in folded]
    assert len({entity.casefold() for entity in world.kinds}) == len(world.kinds)


def relation_of(subject: str, answer: str, *pairs: str) -> dict[str, Any]:
    facts = [dict(zip(("subject", "answer"), pair.split(" to "), strict=True)) for pair in pairs]
    templates = ["The one of {subject} is", "{subject} has"]
    return {"source": "x", "subject": subject, "answer": answer, "templates": templates, "facts": facts}


def domain_of(name: str, **relations: dict[str, Any]) -> Domain:
    return Domain.model_validate({"domain": name, "description": "", "relations": relations})


def test_a_world_knows_kinds_domains_bridges_and_what_can_be_asked():
    city = relation_of("firm", "city", "Fiat to Turin", "Sony to Tokyo")
    country = relation_of("city", "country", "Turin to Italy", "Cusco to Peru")
    world = World.of([domain_of("places", seat=city, land=country)]).bridged()
    assert world.kinds["Fiat"] == "firm" and world.kinds["Cusco"] == world.kinds["Tokyo"] == "city"
    assert world.domains == {"city": "places", "country": "places"} and world.bridges == ("Turin",)
    assert [(domain, name) for domain, name, _ in world.questions("city")] == [("places", "land")]
    assert not world.questions("country")


def test_a_world_that_does_not_fit_together_is_refused():
    planet = domain_of("sky", god=relation_of("planet", "god", "Mercury to Hermes", "Venus to Aphrodite"))
    metal = domain_of("lab", sign=relation_of("symbol", "metal", "Hg to Mercury", "Fe to Iron"))
    with pytest.raises(
        ValueError, match=r"lab.yaml: relations.sign: 'Mercury' has kind 'metal' here and 'planet' in .*sky"
    ):
        World.of([planet, metal])
    temple = domain_of("town", temple=relation_of("temple", "god", "Parthenon to Athena", "Heraion to Hera"))
    with pytest.raises(
        ValueError, match=r"town.yaml: .*kind 'god' is answered in .*sky.yaml already, wanted one domain"
    ):
        World.of([planet, temple])
    with pytest.raises(ValueError, match=r"data/facts of sky: a world without a single bridge: .* add a relation"):
        World.of([planet]).bridged()


def content() -> dict[str, Any]:
    """A facts file that is right."""
    return {
        "domain": "sport",
        "description": "made up",
        "relations": {
            "ball": {
                "source": "made up",
                "subject": "sport",
                "answer": "ball",
                "templates": ["The ball of {subject} is", "{subject} is played with a"],
                "facts": [{"subject": "tennis", "answer": "felt"}, {"subject": "golf", "answer": "dimpled one"}],
            }
        },
    }


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The file with its one relation changed."""
    found = content()
    change(found["relations"]["ball"])
    return found


BALL = "data/facts/sport.yaml: relations.ball"
BROKEN = {
    f"{BALL}.facts.1.answer: missing: wanted this key": edited(lambda ball: ball["facts"][1].pop("answer")),
    f"{BALL}.source: missing: wanted this key": edited(lambda ball: ball.pop("source")),
    f"{BALL}.subject: missing: wanted this key": edited(lambda ball: ball.pop("subject")),
    f"{BALL}.answer: found 'round Thing', wanted a noun of one lower-case word": edited(
        lambda ball: ball.update(answer="round Thing")
    ),
    f"{BALL}.facts: duplicate fact: subject 'golf' stands twice": edited(
        lambda ball: ball["facts"].append({"subject": "golf", "answer": "felt"})
    ),
    f"{BALL}.facts: the relation is empty: wanted at least one {{subject, answer}}": edited(
        lambda ball: ball.update(facts=[])
    ),
    f"{BALL}.facts: wanted a list (found None)": edited(lambda ball: ball.update(facts=None)),
    f"{BALL}: wanted keys with values (found None)": content() | {"relations": {"ball": None}},
    "data/facts/sport.yaml: (whole file): relations: wanted at least one relation": content() | {"relations": {}},
    f"{BALL}.facts.0.answer: wanted a valid string (found 1984)": edited(
        lambda ball: ball["facts"][0].update(answer=1984)
    ),
    f"{BALL}.facts.0.answer: found 'felt ', wanted words without": edited(
        lambda ball: ball["facts"][0].update(answer="felt ")
    ),
    f"{BALL}.facts: all facts share one answer": edited(lambda ball: ball["facts"][1].update(answer="felt")),
    f"{BALL}.templates: template 'No subject' must hold {{subject}} exactly once": edited(
        lambda ball: ball["templates"].append("No subject")
    ),
    f"{BALL}.templates: wanted at least 2 templates, found 1": edited(lambda ball: ball["templates"].pop()),
    f"{BALL}.templates: the same template stands twice": edited(
        lambda ball: ball["templates"].append(ball["templates"][0])
    ),
    f"{BALL}.facts.0.anwser: unknown key": edited(lambda ball: ball["facts"][0].update(anwser="felt")),
    "data/facts/sport.yaml: domain: found 'sports', wanted the file's name 'sport'": content() | {"domain": "sports"},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_file_is_refused_by_name_and_key(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("data/facts").mkdir(parents=True)
    with Path("data/facts/sport.yaml").open("w") as stream:
        YAML().dump(BROKEN[message], stream)
    with pytest.raises(ValueError) as caught:
        read_domain("sport")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n"])
def test_what_is_no_yaml_is_refused_in_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("data/facts").mkdir(parents=True)
    Path("data/facts/sport.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^data/facts/sport.yaml: not readable as YAML: [^\n]*line \d[^\n]*$"):
        read_domain("sport")


def test_an_unknown_domain_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"params.yaml: domains: unknown domain 'sport': .*geography, history"):
        read_domain("sport")
