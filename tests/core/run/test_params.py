"""Params are validated whole, by section, and every mistake is named with its key."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from stages.core.model.section import Peer
from stages.core.run.params import Count, Domains, Name, Names, Section, Share, read_sections

ROOT = Path(__file__).parents[3]
GOOD = """\
domains: [music, history]
prompts:
  targets: 4
  test: 0.2
  held_out: {targets: 0.1, subjects: 0.1}
"""


class HeldOut(Section):
    targets: Share
    subjects: Share


class Prompts(Section):
    targets: Count
    test: Share
    held_out: HeldOut


class Sections(Section):
    domains: Domains
    prompts: Prompts


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def refusal(text: str) -> str:
    """What is said of this params.yaml."""
    Path("params.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_sections(Sections)
    return str(caught.value)


def test_good_params_are_read_and_other_sections_are_left_alone():
    Path("params.yaml").write_text(GOOD + "other: {misspelt: 1}\n")
    assert read_sections(Sections).prompts.held_out.targets == 0.1


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("targets: 4", "targets: four", "prompts.targets: wanted a valid integer (found 'four')"),
        ("targets: 4", "targets: '4'", "prompts.targets: wanted a valid integer (found '4')"),
        ("targets: 4", "targets: true", "prompts.targets: wanted a valid integer (found True)"),
        ("targets: 4", "targets: 0", "prompts.targets: wanted greater than or equal to 1 (found 0)"),
        ("test: 0.2", "test: 1.2", "prompts.test: wanted less than 1 (found 1.2)"),
        ("  targets: 4", "  tragets: 4", "prompts.targets: missing: wanted this key"),
        ("  targets: 4", "  tragets: 4", "prompts.tragets: unknown key (misspelt, or of another section) (found 4)"),
        ("{targets: 0.1, ", "{", "prompts.held_out.targets: missing: wanted this key"),
        ("prompts:", "promts:", "prompts: missing: wanted this key"),
        ("[music, history]", "[music]", "domains: List should have at least 2 items"),
        ("[music, history]", "music", "domains: wanted a list (found 'music')"),
        ("[music, history]", "[music, Art]", "domains.1: found 'Art', wanted small letters, digits and '_'"),
        ("{targets: 0.1, subjects: 0.1}", "0.1", "prompts.held_out: wanted keys with values (found 0.1)"),
    ],
)
def test_a_mistake_is_named_with_its_key(right: str, wrong: str, message: str):
    assert f"params.yaml: {message}" in refusal(GOOD.replace(right, wrong))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params.yaml: (whole file): wanted keys with values (found None)"),
        ("- a", "params.yaml: (whole file): wanted keys with values (found ['a'])"),
        ("domains: [", "params.yaml: not readable as YAML: "),
        (GOOD + "domains: [art, music]\n", "params.yaml: not readable as YAML: "),
    ],
)
def test_a_file_that_holds_no_sections_is_refused_in_one_line(text: str, message: str):
    found = refusal(text)
    assert found.startswith(message) and "\n" not in found


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"params.yaml: no such file: run the stage in the repository's root"):
        read_sections(Sections)


def sections() -> dict[str, type[Section]]:
    """The classes of every section.py, and those that stand elsewhere, by the name of the section that they are."""
    rooms = [f"stages.core.{path.parent.name}.section" for path in ROOT.glob("stages/core/*/section.py")]
    rooms += ["stages.core.data.corrections", "stages.core.data.held_out", "stages.tools.judge"]
    found = [value for room in rooms for value in vars(import_module(room)).values()]
    kinds = [kind for kind in found if isinstance(kind, type) and issubclass(kind, Section)]
    return {re.sub("(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in kinds}


def test_every_section_of_the_repository_s_params_is_valid_and_is_read_by_some_class():
    content = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    known = {**sections(), "domains": Domains, "questions": Names, "peers": dict[Name, Peer]}
    for name, section in content.items():
        TypeAdapter(known[name]).validate_python(section)


def test_no_section_has_a_default():
    for kind in sections().values():
        assert all(field.is_required() for field in kind.model_fields.values()), kind
