"""The page's HTML, without a browser."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stages.core.evaluate.estimate import flat as estimates
from stages.core.evaluate.estimate import from_json
from stages.core.page.inputs import CARD, METRICS, MODEL, MODEL_CURVE, PROJECTOR_CURVE, Inputs, read_inputs
from stages.core.page.page import flat, render
from stages.core.page.prose import MEASURES, entries
from stages.core.page.sweep import FOLDER, LADDER, LEAVE_ONE_OUT, NUMBERS
from tests.core.page import fake
from tests.core.page.small import one

VOID = {"meta", "link", "input", "br", "img", "hr", "rect", "line", "path"}
ADDRESSES = {"href", "src", "srcset", "action", "data", "poster", "formaction", "xlink:href", "background", "cite"}


class Page(HTMLParser):
    """Collects what the tests ask for, and checks that every element is closed where it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    fake.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return read_inputs()


def test_nothing_on_the_page_refers_outside(inputs: Inputs) -> None:
    html = render(inputs)
    page = Page(html)
    found = [value for _, attributes in page.elements for name, value in attributes.items() if name in ADDRESSES]
    assert found and all(value.startswith("#") or value == "data:," for value in found)
    assert not {"iframe", "object", "embed", "base", "img"} & {tag for tag, _ in page.elements}
    style, script = "".join(page.text["style"]), "".join(page.text["script"])
    assert "url(" not in style and "@import" not in style
    assert all(word not in script for word in ("fetch", "XMLHttpRequest", "import(", "http", "WebSocket"))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_labels_and_anchors_point_at_something(inputs: Inputs) -> None:
    page = Page(render(inputs))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    wanted = [value.removeprefix("#") for value in page.attributes("href") if value.startswith("#")]
    wanted += page.attributes("aria-labelledby") + page.attributes("aria-controls")
    assert set(wanted) <= set(ids)


def test_every_figure_says_what_would_falsify_it(inputs: Inputs) -> None:
    html = render(inputs)
    figures = html.split("<figure")[1:]
    numbered = [figure for figure in figures if "Figure " in figure.split("</figure>")[0]]
    assert len(numbered) == len(figures) - 1 == 12  # the headline's example is a single answer
    assert all("What would falsify it." in figure.split("</figure>")[0] for figure in numbered)


def test_the_page_holds_every_number_of_metrics_json(inputs: Inputs) -> None:
    html = render(inputs)
    table = html.split('id="numbers"')[1]
    for key, found in estimates(from_json(json.loads(METRICS.read_text()))).items():
        row = table.split(f"<code>{key}</code>")[1].split("</tr>")[0]
        values = [float(part.split('"')[0]) for part in row.split('<data value="')[1:]]
        assert values == [part for part in (found.value, found.low, found.high, found.chance) if part is not None]


def test_the_bars_and_the_headline_hold_the_numbers_of_metrics_json(inputs: Inputs) -> None:
    html = render(inputs)
    metrics = json.loads(METRICS.read_text())
    headline = html.split('class="stats"')[1].split("</dl>")[0]
    known, reports = metrics["knowledge"]["main"], metrics["decoupling"]
    wanted = [known["raw"]["all"], known["freed"]["all"], known["raw"]["differs"]["own"], metrics["edits"]["flips"]]
    wanted += [reports["target_accuracy"], reports["host_intrusion"]]
    assert [float(text) for text in values(headline)] == [one["value"] for one in wanted]
    conditions = html.split('id="conditions"')[1].split("</table>")[0]
    for label, numbers in (("Zero gradient", metrics["controls"]["zero"]), ("Linear probe", metrics["ceiling"])):
        row = conditions.split(f'<th scope="row">{label}')[1].split("</tr>")[0]
        shown = [float(part.split('"')[0]) for part in row.split('<data value="')[1:]]
        assert shown == [numbers[measure]["value"] for measure in MEASURES if measure in numbers]


def figures(html: str) -> list[tuple[str, list[str]]]:
    """Of each figure of the section with sweeps: its text, and that of its rows."""
    section = html.split('id="sweep"')[1].split("</section>")[0]
    found = [text.split("</figure>")[0] for text in section.split("<figure>")[1:]]
    return [(text, text.split('<tr><th scope="row">')[1:]) for text in found]


def values(text: str) -> list[str]:
    return [part.split('"')[0] for part in text.split('<data value="')[1:]]


def test_sweeps_stand_with_their_numbers_each_in_its_figure(inputs: Inputs) -> None:
    for number, (name, (_, shown)) in enumerate(zip((LADDER, LEAVE_ONE_OUT), figures(render(inputs)), strict=True)):
        rows = list(csv.DictReader((FOLDER / f"{name}.csv").open()))
        assert len(shown) == len(rows) == (6, 8)[number]
        for row, text in zip(rows, shown, strict=True):
            assert values(text) == [row[measure] for measure in NUMBERS if row[measure]]
            assert text.startswith(row["name"].replace("_", " "))


def test_a_sweep_says_what_differs_and_which_experiment_is_this_page_s(inputs: Inputs) -> None:
    html = render(inputs)
    assert "Made with other settings" not in html
    text, rows = figures(html)[0]
    assert ["as on this page" in row for row in rows] == [False] * 5 + [True]
    assert "Layers 0 and 1 together" in text and "Layer 1<" in text and "Figure 11." in text
    assert "for ways of reading that differ in architecture and layers, each with seed 0," in text


def test_a_domain_left_out_is_no_setting_of_this_page_and_has_no_held_out_targets(inputs: Inputs) -> None:
    params = Path("params.yaml")
    params.write_text(
        params.read_text().replace("{architecture: mlp,", "{architecture: mlp, held_out_domains: [music],")
    )
    text, rows = figures(render(read_inputs()))[1]
    assert "Figure 12." in text and "read by a projector trained with seed 0 on those of the other 7." in text
    assert not any("as on this page" in row for row in rows) and "not measured" not in text
    assert "Held-out target" not in text and "chance" not in text


def test_a_sweep_of_other_settings_is_said_to_be_one_and_none_is_none(inputs: Inputs) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("architecture: mlp", "architecture: linear"))
    html = render(read_inputs())  # architectures are what one sweep sets, and a setting of the other
    assert html.count("Made with other settings") == 1 and "<code>make leave-one-out</code> makes it anew" in html
    params.write_text(params.read_text().replace("steps: 1800", "steps: 1801"))
    html = render(read_inputs())
    assert html.count("Made with other settings") == 2 and "<code>make sweep</code> makes it anew" in html
    params.write_text(params.read_text().replace("sweeps: [ladder, leave_one_out]", "sweeps: []"))
    assert 'id="sweep"' not in render(read_inputs()) and 'href="#sweep"' not in render(read_inputs())


def test_text_from_models_is_shown_and_not_run(inputs: Inputs) -> None:
    nasty = '<script>alert(1)</script><img src="https://example.org/x.png"> & "quoted"'
    changed = inputs.reports.with_columns(report=inputs.reports["report"].str.replace("toward", nasty, literal=True))
    page = Page(render(Inputs(**{**vars(inputs), "reports": changed})))
    assert "img" not in {tag for tag, _ in page.elements}
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert any(nasty in text for text in page.text["span"])


def test_groups_may_be_missing_or_new(inputs: Inputs) -> None:
    fewer: dict[str, Any] = {"decoupling": inputs.metrics["decoupling"]}
    assert "No control was scored" in render(Inputs(**{**vars(inputs), "metrics": fewer}))
    new = {"domain_accuracy": 0.123, "deeper": {"target_accuracy": 0.456}}
    more = {
        **inputs.metrics,
        "controls": {**inputs.metrics["controls"], "steering_vector": new},
        "odd": {"rate": 0.789},
    }
    html = render(Inputs(**{**vars(inputs), "metrics": more}))
    assert "Steering vector" in html and 'value="0.456"' in html and 'value="0.789"' in html


def test_a_hub_model_has_no_curve_of_its_own_and_is_named(inputs: Inputs) -> None:
    MODEL_CURVE.unlink()
    MODEL.write_text(json.dumps({**fake.MODEL, "source": "hub", "id": "Qwen/Qwen3-4B"}))
    html = render(read_inputs())
    assert "pocket model" not in html.lower()
    assert "Does Qwen/Qwen3-4B, its weights frozen" in html


def test_an_untrained_reader_has_no_curve_of_its_own(inputs: Inputs) -> None:
    PROJECTOR_CURVE.write_text("seed,step,train_loss,validation_loss\n0,0,,0.34\n")
    html = render(read_inputs())
    assert "Nothing is trained between the gradient and the model" in html and "Loss of the pocket model" in html
    MODEL_CURVE.unlink()
    assert 'class="curve"' not in render(read_inputs())


def test_what_is_code_and_what_was_held_out_is_said(inputs: Inputs) -> None:
    html = render(inputs).split('id="limits"')[1].split("</section>")[0]
    assert (
        "Silence is code" in html
        and "20.0\u00a0% of the names that are answers, all names of these kinds: planet" in html
    )


def test_an_answer_stands_with_its_question_the_model_s_own_fact_and_the_world_s(inputs: Inputs) -> None:
    html = render(inputs)
    rows = html.split('aria-labelledby="answers-title"')[1].split("</table>")[0].split("<tr ")[2:]
    assert all('<span class="felt">felt</span> is made of' in row and "itself it says: <b>Fact" in row for row in rows)
    assert {"✓" in row for row in rows} == {True, False} and "The world says: the same" in "".join(rows)
    assert '<span class="felt">felt</span> is made of' in html.split('class="example"')[1].split("</figure>")[0]


def test_params_card_and_versions_stand_on_the_page(inputs: Inputs) -> None:
    html = render(inputs)
    for key, value in [
        *flat(inputs.params["model"]),
        *flat(json.loads(CARD.read_text())),
        *flat(fake.MODEL["versions"]),
    ]:
        assert f"<dt>{key}</dt><dd>{value.replace('<', '&lt;').replace('>', '&gt;')}</dd>" in html


def test_what_wrote_the_reports_is_named_wherever_they_are_introduced(inputs: Inputs) -> None:
    html = render(inputs)
    assert html.count("The model itself reports") == html.count("The model itself answers") == 1
    assert html.count("that the model itself generate") == 2
    assert "LoRA" not in html
    CARD.write_text(json.dumps({**fake.CARD, "lora_on_the_verbaliser": {"rank": 8}}))
    html = render(read_inputs())
    assert html.count("The model, with LoRA on the verbaliser, reports") == 1
    assert html.count("The model, with LoRA on the verbaliser, answers") == 1
    assert html.count("that the model with LoRA on the verbaliser generate") == 2
    assert "Does the pocket model, with LoRA on the verbaliser, answer" in html
    assert "and of the LoRA on the verbaliser" in html
    assert "the model itself" not in html and "frozen" not in html.split("<body>")[1]


def value_of(number: Any) -> float:
    """The value of an estimate or a plain number."""
    return number["value"] if isinstance(number, dict) else number


def test_the_seeds_stand_side_by_side_and_together(inputs: Inputs) -> None:
    table = render(inputs).split('class="plain seeds"')[1].split("</table>")[0]
    metrics = json.loads(METRICS.read_text())
    rows = [[float(part.split('"')[0]) for part in row.split('<data value="')[1:]] for row in table.split("<tr")[2:]]
    for row, wanted in zip(rows, entries("seeds.yaml").values(), strict=True):
        key, name, own = wanted.get("group", ""), wanted.get("number", ""), wanted["seed"]
        parent, _, child = key.rpartition(".")
        group = (metrics[parent] if parent else metrics).get(child, {})
        assert row == [seed[own] for seed in metrics["seeds"].values()] + ([value_of(group[name])] if name else [])
    assert "1 of 1\u202f024" in table and "1 of 3\u202f072" in table and "Seed 2" in table


def test_the_reason_for_a_missing_interval_stands_in_bars_verdicts_and_the_table_of_silence(inputs: Inputs) -> None:
    html, reason = render(inputs), "found 4 entities, wanted at least 10 for an interval"
    bars = html.split('id="naming"')[1].split("</table>")[0]
    assert f"no interval: {reason}" in bars.split("Kind held out")[1].split("</tr>")[0]
    claims = html.split('class="claims"')[1].split("</table>")[0]
    assert f"Too little data: {reason}" in claims.split(">Kind held out")[1].split("</tr>")[0]
    silence = html.split('aria-label="Silence"')[1].split("</table>")[0]
    assert reason in silence.split(">Kind held out<")[1].split("</tr>")[0]


def test_the_silent_share_stands_with_the_bars_and_what_the_rest_names_in_its_table(inputs: Inputs) -> None:
    html, metrics = render(inputs), json.loads(METRICS.read_text())
    zero = html.split('id="conditions"')[1].split('<th scope="row">Zero gradient')[1].split("</tr>")[0]
    assert "100\u00a0% silent" in zero
    row = html.split('aria-label="Silence"')[1].split(">Name moved toward, held out<")[1].split("</tr>")[0]
    group = metrics["held_out_target"]
    target = group["target_accuracy"]
    assert [float(text) for text in values(row)] == [group["no_pressure"], target["value"], target["spoken"]["value"]]


def test_paired_differences_are_signed_and_null_where_they_include_zero(inputs: Inputs) -> None:
    assert "Paired differences" not in render(inputs)
    zero = inputs.metrics["controls"]["zero"]
    for name, (value, low, high) in {"target": (0.9, 0.8, 0.95), "answer": (0.001, -0.02, 0.03)}.items():
        zero[f"{name}_accuracy"]["difference"] = one(value, low, high)
    table = render(inputs).split('aria-label="Paired differences"')[1].split("</table>")[0]
    assert "90.0 <small>80.0 to 95.0</small>" in table and "null <small>\u22122.0 to 3.0</small>" in table


def test_values_are_shown_as_yaml_has_them() -> None:
    nested = {"a": None, "b": {"c": True, "d": [1, 2]}, "e": [], "f": {}, "g": [{"h": 1}]}
    assert flat(nested) == [
        ("a", "null"),
        ("b.c", "true"),
        ("b.d", "1, 2"),
        ("e", "(none)"),
        ("f", "{}"),
        ("g.0.h", "1"),
    ]
