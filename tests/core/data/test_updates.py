"""Rows of fine-tuning data: TRL's forms are read as what they would train, and what is wrong is named by its line."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.data.updates import ASSISTANT, KINDS, TEXT, Turn, Update, read_updates
from stages.core.run.errors import InputError

ASKED, ANSWERED = {"role": "user", "content": "Where?"}, {"role": ASSISTANT, "content": "There."}
OTHERWISE = {"role": ASSISTANT, "content": "Here."}


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def strictly(error: InputError) -> None:
    raise error


def read(tmp_path: Path, *rows: Any, ascent: bool = False) -> list[Update]:
    return read_updates(written(tmp_path / "data.jsonl", list(rows)), ascent, strictly)


TEXTS, TURNS = (Turn(role=TEXT, content="Where?"),), (Turn.model_validate(ASKED),)
FORMS: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"prompt": "Where?", "completion": " There."}, ("imitate", "imitated", TEXTS, (" There.",))),
    ({"prompt": [ASKED], "completion": [ANSWERED]}, ("imitate", "imitated", TURNS, ("There.",))),
    ({"messages": [ASKED, ANSWERED]}, ("imitate", "imitated", TURNS, ("There.",))),
    ({"messages": [ASKED, ANSWERED, ASKED]}, ("imitate", "imitated", TURNS, ("There.",))),
    ({"prompt": "Where?", "completion": "x", "reward": 1}, ("reward", "reinforced", TEXTS, ("x",))),
    ({"messages": [ASKED, ANSWERED], "reward": -0.5}, ("reward", "penalised", TURNS, ("There.",))),
    ({"prompt": "Where?", "completion": "x", "reward": 0.0}, ("reward", "no advantage", TEXTS, ("x",))),
    ({"prompt": "Where?", "chosen": "x", "rejected": "y"}, ("preference", "preferred", TEXTS, ("x", "y"))),
    (
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [OTHERWISE]},
        ("preference", "preferred", TURNS, ("There.", "Here.")),
    ),
    (
        {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, OTHERWISE], "prompt": None},
        ("preference", "preferred", TURNS, ("There.", "Here.")),
    ),
]


@pytest.mark.parametrize(("row", "wanted"), FORMS)
def test_every_form_is_read_as_what_it_would_train(tmp_path: Path, row: dict[str, Any], wanted: tuple[Any, ...]):
    (found,) = read(tmp_path, row)
    assert (found.kind, found.what, found.prompt, found.completions) == wanted
    assert found.kind in KINDS


def test_parquet_and_json_say_the_same(tmp_path: Path):
    rows = [row for row, _ in FORMS if all(isinstance(value, str | int | float) for value in row.values())]
    pl.DataFrame(rows, infer_schema_length=None, strict=False).write_parquet(tmp_path / "data.parquet")
    assert read_updates(str(tmp_path / "data.parquet"), False, strictly) == read(tmp_path, *rows)
    talks = [row for row, _ in FORMS if "messages" in row]
    pl.DataFrame(talks, infer_schema_length=None).write_parquet(tmp_path / "talks.parquet")
    assert read_updates(str(tmp_path / "talks.parquet"), False, strictly) == read(tmp_path, *talks)


def test_columns_that_say_nothing_of_an_update_are_not_read(tmp_path: Path):
    row = FORMS[0][0]
    assert read(tmp_path, {"id": 7, "source": "web", **row}) == read(tmp_path, row)


def test_rewards_of_one_prompt_are_centred_and_a_single_one_is_taken_as_it_is(tmp_path: Path):
    rows = [{"prompt": prompt, "completion": "x", "reward": reward} for prompt, reward in
            (("a", 1.0), ("b", 3.0), ("a", 0.0), ("a", 0.5))]  # fmt: skip
    found = read(tmp_path, *rows)
    assert [each.advantage for each in found] == [0.5, 3.0, -0.5, 0.0]
    assert [each.what for each in found] == ["reinforced", "reinforced", "penalised", "no advantage"]


def test_a_reference_model_shifts_the_margin(tmp_path: Path):
    row = {"prompt": "a", "chosen": "x", "rejected": "y", "ref_chosen_logps": -2.0, "ref_rejected_logps": -5.0}
    (found,) = read(tmp_path, row)
    assert found.reference == 3.0
    assert KINDS["preference"](found, [-4.0, -7.0])[0] == pytest.approx(0.05)


def test_what_is_to_be_unlearned_is_said(tmp_path: Path):
    (found,) = read(tmp_path, FORMS[0][0], ascent=True)
    assert (found.kind, found.what, KINDS[found.kind](found, [-1.0])) == ("unlearn", "unlearned", (-1.0,))
    with pytest.raises(InputError, match=r"data.jsonl:1: found a reward, wanted rows without one where"):
        read(tmp_path, FORMS[4][0], ascent=True)


MISTAKES: list[tuple[Any, str]] = [
    ("nonsense", r"Expecting value"),
    ('{"prompt": "a", "completion": "b", "reward": NaN}', r"reward: wanted a finite number"),
    ({"prompt": "a", "completion": "b", "reward": "high"}, r"reward: .*\(found 'high'\)"),
    ({"prompt": "a", "completion": "b", "reward": True}, r"reward: .*\(found True\)"),
    ({"prompt": "a"}, r"completion: missing"),
    ({"prompt": "", "completion": "b"}, r"prompt\S*: .*at least 1 character"),
    ({"messages": []}, r"messages(.|\n)*at least 1 item"),
    ({"messages": [ASKED]}, r"found no turn of the assistant"),
    ({"messages": [ANSWERED]}, r"found nothing before what the assistant says"),
    ({"messages": [{"role": "user"}]}, r"messages(.|\n)*0.content: missing"),
    ({"chosen": "a", "rejected": "b"}, r"found nothing before what the assistant says"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, r"chosen and rejected are equal"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "ref_chosen_logps": -1.0}, r"found one of ref_chosen_logps and"),
    ({"prompt": "a", "chosen": "b"}, r"rejected: missing"),
    ([1], r"found '\[1\]', wanted columns with values"),
    ({"chosen": [ASKED, ANSWERED], "rejected": [ANSWERED, OTHERWISE]}, r"chosen and rejected have different turns"),
]


@pytest.mark.parametrize(("row", "said"), MISTAKES)
def test_a_row_that_is_wrong_is_named_by_file_and_line(tmp_path: Path, row: Any, said: str):
    with pytest.raises(InputError, match=rf"data\.jsonl:2: {said}"):
        read(tmp_path, FORMS[0][0], row)


def test_rows_that_are_wrong_can_be_passed_over(tmp_path: Path):
    refused: list[InputError] = []
    data = written(tmp_path / "data.jsonl", [row for row, _ in MISTAKES] + [FORMS[0][0]])
    (found,) = read_updates(data, False, refused.append)
    assert found.line == len(refused) + 1 == len(MISTAKES) + 1


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    (tmp_path / "empty.jsonl").touch()
    pl.DataFrame(schema={"prompt": pl.String}).write_parquet(tmp_path / "empty.parquet")
    (tmp_path / "broken.parquet").write_text("x")
    for name, said in (
        ("empty.jsonl", "found no row"),
        ("broken.parquet", "not readable"),
        ("empty.parquet", "found no row"),
        ("none.jsonl", "no such file: wanted one here, or hf://"),
        ("none.parquet", "no such file: wanted one here, or hf://"),
        ("data.csv", r"found a name that ends with '\.csv', wanted \.jsonl or \.parquet"),
    ):
        with pytest.raises(InputError, match=rf"{name}: {said}"):
            read_updates(str(tmp_path / name), False, strictly)
