"""What was held out, beside what is left without the model."""

from stages.core.page.page import bar_sections, held_out_rows, parts
from tests.core.page.small import KNOWLEDGE, groups, numbers, told, with_differences

FOUND = groups(
    decoupling=numbers(0.99, chance=0.1),
    held_out_target=numbers(0.9, chance=0.1),
    held_out_subject=numbers(0.97, chance=0.1),
    without_model=numbers(0.98)
    | {
        "held_out_target": with_differences(numbers(0.95, spread=0.001), target=(-0.05, -0.09, -0.01)),
        "held_out_subject": numbers(0.6),
    },
    ceiling=numbers(0.6) | {"held_out_target": numbers(0.6)},
    peers={"other": {"seen": numbers(0.9)}},
)


def test_below_each_group_stands_what_is_left_without_the_model():
    assert [row.group.key for row in held_out_rows(FOUND)] == [
        "decoupling", "without_model", "held_out_target", "without_model.held_out_target",
        "held_out_subject", "without_model.held_out_subject",
    ]  # fmt: skip
    rows = [row.group.key for _, part in bar_sections(FOUND) for row in part]
    assert rows == ["decoupling", "without_model", "ceiling"]


def test_what_is_left_is_held_against_the_reports_on_the_same_held_out_gradients():
    said = {row.group.key: row.verdict for row in held_out_rows(FOUND)}
    assert said["without_model.held_out_subject"].text == "Against the real gradient: domain, target and answer lower"
    there = said["without_model.held_out_target"]
    assert there.holds is None and there.text == "Against the real gradient: target 5.0 points higher (1.0\u20139.0)"


def test_readings_stand_by_model_with_chance_and_with_the_facts_that_differ():
    main, permuted = parts(groups(knowledge=KNOWLEDGE), "knowledge")
    assert (main[0], permuted[0]) == ("The model under study", "Another model: permuted")
    assert [row.group.key.split(".")[2] for row in main[1]] == ["raw", "freed", "named", "nearest", "shuffled"]
    assert [row.label for row in permuted[1]] == ["The update", "No model, world's facts", "The first model's update"]
    raw = main[1][0].group
    assert (raw["all"].value, raw["all"].chance, raw["own"].value, raw["world"].value) == (0.923, 0.04, 0.9, 0.01)


def test_questions_stand_in_both_wordings():
    asked = groups(questions={"is_it": {"held_out": told(0.8), "trained": told(0.9)}})
    assert [
        (title, [row.group["all"].value for row in rows]) for title, rows in parts(asked, "questions", title="{}")
    ] == [("is it", [0.9, 0.8])]
