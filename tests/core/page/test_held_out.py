"""What training never saw, beside what the references read of the same gradients."""

from stages.core.page.page import bar_sections, held_out_rows
from tests.core.page.small import groups, numbers, with_differences

FOUND = groups(
    decoupling=numbers(0.99, chance=0.1),
    held_out_target=numbers(0.9, chance=0.1),
    held_out_subject=numbers(0.97, chance=0.1),
    ceiling=numbers(0.98) | {"held_out_target": numbers(0.1)},
    floor=numbers(0.6)
    | {
        "held_out_target": with_differences(numbers(0.95, spread=0.001), target=(-0.05, -0.09, -0.01)),
        "held_out_subject": numbers(0.6),
    },
)


def test_references_stand_below_the_held_out_group_whose_gradients_they_read_and_not_among_the_others():
    assert [row.group.key for row in held_out_rows(FOUND)] == [
        "decoupling", "held_out_target", "ceiling.held_out_target", "floor.held_out_target",
        "held_out_subject", "floor.held_out_subject",
    ]  # fmt: skip
    rows = [row.group.key for _, part in bar_sections(FOUND) for row in part]
    assert rows == ["decoupling", "ceiling", "floor"]


def test_a_reference_is_held_against_the_reports_on_the_same_held_out_gradients():
    said = {row.group.key: row.verdict for row in held_out_rows(FOUND)}
    assert said["floor.held_out_subject"].text == "Against the real gradient: domain, target and answer lower"
    assert said["ceiling.held_out_target"].text == "Against the real gradient: domain, target and answer lower"


def test_a_lens_that_reads_new_targets_better_than_the_reports_breaks_the_claim():
    (row,) = (row for row in held_out_rows(FOUND) if row.group.key == "floor.held_out_target")
    assert row.verdict.holds is False and "target 5.0 points higher (1.0\u20139.0)" in row.verdict.text
