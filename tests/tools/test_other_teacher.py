"""Another teacher: which labels a projector is trained on, who else is refused, and what is scored by which label."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.data.facts import read_domain
from stages.core.data.gathering import Gathered
from stages.core.data.gathering import labelled as labelled_rows
from stages.core.data.grammar import NO_PRESSURE, report
from stages.core.data.tables import LABELS, VIRTUAL_STEP, read_table, write_table
from stages.core.evaluate.cases import COUNTERFACTUAL, SEEN
from stages.core.evaluate.scores import scored
from stages.core.labels.labeller import by_prompt
from stages.core.labels.lexicon import Lexicon
from stages.core.model.opening import open_model
from stages.core.reader.reader import Reader
from stages.core.run.params import read_sections
from stages.labellers import local
from stages.projector import card_for
from stages.tools import experiment, other_teacher
from tests.pipeline import tiny

FIRST, SECOND = tiny.DOMAINS
SOURCE = Path("data/labels/second")


class Stopped(Exception):
    pass


@pytest.fixture
def root(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.declare_sweeps(root)
    monkeypatch.chdir(root)
    return root


def params() -> other_teacher.Sections:
    return read_sections(other_teacher.Sections)


def labelled(domain: str) -> pl.DataFrame:
    return read_table(Path(f"data/labels/{domain}.parquet"), LABELS)


def untrained(data: Gathered, settings: other_teacher.Sections) -> Reader:
    decoder, model = open_model()
    return Reader.new(decoder, card_for(decoder, model, data, settings.projector), 0)


def test_the_local_teacher_s_other_reads_the_smallest_step_alone(root: Path):
    teacher, labels = other_teacher.other_labels(params())
    assert "local" in teacher and "smallest step" in teacher
    lexicon, found = Lexicon(tuple(map(read_domain, tiny.DOMAINS))), []
    for domain in tiny.DOMAINS:
        shifts = by_prompt(read_table(Path(f"data/virtual_step/{domain}.parquet"), VIRTUAL_STEP))
        assert all([step["step_size"] for step in steps] == [0.5, 1.0] for _, steps in shifts)
        found += [
            {"prompt_id": name, **local.read_shift(steps[:1], lexicon), "teacher": "local"} for name, steps in shifts
        ]
    assert labels.equals(pl.DataFrame(found, schema=LABELS))
    assert not labels.equals(pl.concat(map(labelled, tiny.DOMAINS)))


def test_the_smallest_of_one_step_size_is_refused_since_it_is_all_that_the_first_teacher_sees(root: Path):
    path = root / f"data/virtual_step/{FIRST}.parquet"
    steps = read_table(path, VIRTUAL_STEP)
    path.unlink()
    write_table(path, steps.filter(pl.col("step_size") == 0.5), VIRTUAL_STEP)
    with pytest.raises(ValueError, match=r"virtual_step.step_sizes: found \[0.5\], wanted at least two"):
        other_teacher.other_labels(params())


def test_a_backend_that_stored_no_second_teacher_s_labels_is_refused_by_name(root: Path):
    tiny.edit_params(root, labels__backend="openai")
    with pytest.raises(ValueError, match=r"data/labels/second: found no label .*backend: openai.*set labels.second"):
        other_teacher.other_labels(params())


def test_a_second_teacher_s_stored_labels_and_no_others_are_trained_on(root: Path, monkeypatch: pytest.MonkeyPatch):
    tiny.edit_params(root, labels__backend="openai")
    (root / SOURCE / f"{FIRST}.parquet").unlink()
    stored = labelled(FIRST)[::2].with_columns(teacher=pl.lit("reviser"), moved_to=pl.lit("Elsewhere"))
    write_table(root / SOURCE / f"{FIRST}.parquet", stored, LABELS)
    taught: list[pl.DataFrame] = []

    def teach(_: object, data: Gathered, *__: object) -> None:
        taught.append(data.rows.filter(pl.col("label_moved_to").is_not_null()))
        raise Stopped

    monkeypatch.setattr(experiment, "teach", teach)
    monkeypatch.setattr("sys.argv", ["other_teacher"])
    with pytest.raises(Stopped):
        other_teacher.main()
    (rows,) = taught
    assert set(rows["prompt_id"]) == set(stored["prompt_id"])
    assert set(rows["label_moved_to"]) == {"Elsewhere"} and set(rows["label_teacher"]) == {"reviser"}
    assert not (root / "data/sweep").exists()


def test_reports_of_wrongly_labelled_gradients_are_held_against_the_correction_and_against_the_label(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = params()
    data = experiment.gathered(settings.domains, settings.projector)
    questions = experiment.questions_of(data, settings.domains, settings.evaluation)
    asked = questions.test.filter(SEEN & COUNTERFACTUAL)
    assert len(asked) > 6
    wrong, none, unknown = asked["prompt_id"][:4], asked["prompt_id"][4:5], asked["prompt_id"][5:6]
    target = pl.col("target")
    labels = data.rows.select(
        "prompt_id",
        moved_to=pl.when(pl.col("prompt_id").is_in(wrong.implode()))
        .then(pl.lit("Elsewhere"))
        .when(pl.col("prompt_id").is_in(none.implode()))
        .then(pl.lit(""))
        .otherwise(target),
        moved_from="answer",
        domain="domain",
        summary=pl.lit(""),
        confidence=pl.lit(1.0),
        teacher=pl.lit("other"),
    ).filter(~pl.col("prompt_id").is_in(unknown.implode()))
    data = replace(data, rows=labelled_rows(data.rows, labels))

    def reported(_: object, rows: pl.DataFrame, *__: object) -> pl.DataFrame:
        """Says the correction; of the last of `wrong` the label, of the first nothing."""
        cases = rows.with_columns(condition=pl.lit("real"), seed=pl.lit(0), confidence=pl.lit(0.5))
        said = {wrong[0]: NO_PRESSURE, wrong[3]: report(FIRST, "Elsewhere", "Lima")}
        right = {
            row["prompt_id"]: report(row["gradient_domain"], row["target"], row["answer"]) for row in rows.to_dicts()
        }
        return scored(cases, [(right | said)[name] for name in cases["prompt_id"]])

    monkeypatch.setattr(other_teacher, "reported", reported)
    found: dict[str, Any] = other_teacher.scores_of(untrained(data, settings), data, settings)
    (grid,) = (name for name in found if name.startswith("Grid"))
    assert list(found)[1:] == [
        "Label wrong, 4 gradients: says the correction",
        "Label wrong, 4 gradients: says its label",
        "No target in the label, 1 gradients",
    ]
    shares = {name: scores["target_accuracy"].value for name, scores in found.items() if name != grid}
    assert list(shares.values()) == [0.5, 0.25, 1.0]
    assert set(found["Label wrong, 4 gradients: says its label"]) == {"target_accuracy"}
    count = sum(min(len(part), settings.evaluation.gradients) for part in asked.partition_by("domain"))
    assert grid == f"Grid, {count} gradients"


def test_where_nothing_is_labelled_the_grid_alone_is_scored(root: Path):
    settings = params()
    data = experiment.gathered(settings.domains, settings.projector)
    unlabelled = replace(data, rows=labelled_rows(data.rows, labelled(FIRST).clear()))
    assert [name[:5] for name in other_teacher.scores_of(untrained(data, settings), unlabelled, settings)] == ["Grid,"]
