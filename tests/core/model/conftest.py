"""The repository's own facts, questions and params."""

from pathlib import Path

import pytest

from stages.core.data.facts import Domain, read_domain
from stages.core.data.held_out import HeldOut
from stages.core.data.questions import Question, read_questions
from stages.core.model.section import Model
from stages.core.run.params import Section, read_sections

ROOT = Path(__file__).parents[3]


class Real(Section):
    """The section that the pocket model's settings are in, and what is held out."""

    model: Model
    held_out: HeldOut


@pytest.fixture(scope="session")
def real_params() -> Real:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return read_sections(Real)


@pytest.fixture(scope="session")
def real_domains() -> list[Domain]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return [read_domain(path.stem) for path in sorted((ROOT / "data/facts").glob("*.yaml"))]


@pytest.fixture(scope="session")
def real_questions() -> dict[str, Question]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return read_questions("pressure")
