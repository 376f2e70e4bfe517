"""The bill before, the budget meanwhile, the usage afterwards; and the key, which turns up nowhere."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from stages.core.api.cache import Cache
from stages.core.api.settings import redact
from stages.labels import main
from tests.labellers import world
from tests.labellers.conftest import KEY
from tests.labellers.server import Reply, Server, completion, label_of, teacher

PRICES = {"tiny": {"input": 1.0, "output": 2.0, "batch": 0.5}}
PAID = 1000 * 1e-6 + 50 * 2e-6  # US dollars for what the server says it counted


def dry_run(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    main(["geography", "--dry-run"])
    found = re.search(
        r"(?P<rows>\d+) rows, (?P<requests>\d+) requests, (?P<cached>\d+) cached, (?P<calls>\d+) calls, "
        r"at most (?P<input>\d+) input and (?P<output>\d+) output tokens, "
        r"at most (?P<usd>[\d.]+) USD(, likely (?P<likely>[\d.]+))?",
        capsys.readouterr().out,
    )
    assert found
    return {name: float(value) for name, value in found.groupdict().items() if value}


def test_the_dry_run_says_the_bill_and_asks_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("OPENAI_API_KEY")
    world.write_world(10, backend="openai")
    with Server(teacher) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        bill = dry_run(capsys)
        assert not Path(".cache").exists() and not Path("data/labels").exists()
        assert bill["calls"] == bill["rows"] == 10 and "likely" not in bill and bill["output"] == 10 * 200
        assert bill["usd"] == pytest.approx(bill["input"] * 1e-6 + bill["output"] * 2e-6, abs=1e-4)
        world.write_world(10, backend="openai", way="batch")
        assert dry_run(capsys)["usd"] == pytest.approx(bill["usd"] / 2, abs=1e-4)
        assert not server.asked

        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        world.write_world(10, backend="openai")
        main(["geography"])
        world.write_world(30, backend="openai")
        bill = dry_run(capsys)
        assert bill["cached"] == 10 and bill["calls"] == 20
        main(["geography"])
        with Cache() as cache:
            assert bill["likely"] == pytest.approx(cache.spent() * 2 / 3, rel=0.05) and bill["usd"] > bill["likely"]
        assert len(server.asked) == 30


def test_the_budget_stops_cleanly_and_keeps_everything(monkeypatch: pytest.MonkeyPatch):
    world.write_world(40, backend="openai", api={"budget": 0.02})
    with Server(teacher) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(ValueError, match=r"api.budget: 0.0200 USD: .* (\d+) of 40 answers are kept") as error:
            main(["geography"])
        kept = int(re.findall(r"(\d+) of 40", str(error.value))[0])
        assert 10 < kept == len(server.asked) and kept * PAID <= 0.02
        assert not Path("data/labels/geography.parquet").exists()
        world.write_world(40, backend="openai", api={"budget": 1.0})
        main(["geography"])
        assert len(server.asked) == 40 and set(server.billed.values()) == {1}
        world.write_world(40, backend="openai", api={"budget": 0.0})
        main(["geography"])  # what is paid is paid


def test_a_try_that_may_have_been_billed_counts_against_the_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LABELS_CONCURRENCY", "1")
    world.write_world(40, backend="openai", api={"budget": 0.02})
    with Server(lambda asked: Reply("", cut=0)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(ValueError, match=r"api.budget"):
            main(["geography"])
        assert 1 < len(server.asked) < 15
    with Cache() as cache:
        assert 0.01 < cache.spent() <= 0.02


def test_usage_goes_to_a_side_file_and_metrics_are_the_same_again(monkeypatch: pytest.MonkeyPatch):
    world.write_world(20, backend="openai")
    run = Path(".cache/labels/usage/geography.json")
    metrics = Path("data/labels/metrics/geography.json")
    with Server(teacher) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        main(["geography"])
        cold, first = json.loads(run.read_text()), metrics.read_bytes()
        main(["geography"])
        warm = json.loads(run.read_text())
    assert (cold["asked"], cold["cached"], warm["asked"], warm["cached"]) == (20, 0, 0, 20)
    assert cold["spent_usd"] == pytest.approx(20 * PAID) and warm["spent_usd"] == 0
    assert metrics.read_bytes() == first
    found = json.loads(first)
    assert found["prompt_tokens"] == 20_000 and found["completion_tokens"] == 1000 and found["latency_median"] > 0
    assert found["cost_usd"] == pytest.approx(20 * PAID)


def test_a_server_that_does_not_count_tokens_is_counted_for(monkeypatch: pytest.MonkeyPatch):
    world.write_world(3, backend="openai")
    with Server(lambda asked: Reply(completion(json.dumps(label_of(asked.body)), usage=None))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        main(["geography"])
        sizes = [len(asked.content) for asked in server.asked]
    found = json.loads(Path("data/labels/metrics/geography.json").read_text())
    assert found["calls_with_estimated_tokens"] == 3
    assert found["prompt_tokens"] == pytest.approx(sum(sizes) / 2, rel=0.1)


def test_without_a_key_nothing_is_asked_but_cached_answers_do(monkeypatch: pytest.MonkeyPatch):
    world.write_world(5, backend="openai")
    with Server(teacher) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ValueError, match=r"OPENAI_API_KEY: not set, and 5 requests have no cached answer; nothing"):
            main(["geography"])
        for wrong in (f"{KEY}\n", f"{KEY} x", "schlüssel"):
            monkeypatch.setenv("OPENAI_API_KEY", wrong)
            with pytest.raises(ValueError, match=r"OPENAI_API_KEY: holds a space") as error:
                main(["geography"])
            assert wrong.strip() not in str(error.value)
        assert not server.asked
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        main(["geography"])
    monkeypatch.delenv("OPENAI_API_KEY")
    main(["geography"])


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [("CONCURRENCY", "2.5", "a whole number"), ("TRIES", "0", "a whole number"), ("TIMEOUT", "nan", "a number")],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, wanted: str):
    world.write_world(2, backend="openai")
    monkeypatch.setenv(f"LABELS_{variable}", value)
    with pytest.raises(ValueError, match=rf"LABELS_{variable}: found '{value}', wanted {wanted}"):
        main(["geography"])


def test_a_model_without_a_price_is_refused():
    world.write_world(2, backend="openai", api={"prices": {}})
    with pytest.raises(ValueError, match=r"api.prices: found no 'tiny'"):
        main(["geography"])
    with pytest.raises(ValueError, match=r"api.prices: found no 'tiny'"):
        main(["geography", "--dry-run"])


def test_a_file_that_is_no_cache_is_left_alone():
    world.write_world(2, backend="openai")
    Path(".cache/labels").mkdir(parents=True)
    Path(".cache/labels/answers.sqlite").write_bytes(b"not a database, but perhaps dear to somebody" * 100)
    with pytest.raises(ValueError, match=r"answers.sqlite: not a usable answer cache .* move it elsewhere"):
        main(["geography"])
    assert Path(".cache/labels/answers.sqlite").read_bytes().startswith(b"not a database")
    assert [path.name for path in Path(".cache/labels").iterdir()] == ["answers.sqlite"]


def test_secrets_turn_up_nowhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Path):
    password = "pass-word-in-address"

    def parrot(asked):
        """Quotes the key wherever a server could."""
        said = f"{KEY} {asked.headers['authorization']} {password}"
        if asked.tries == 1:
            return Reply({"error": {"message": said, "code": said}}, 500, {"x-key": said})
        number = len(asked.body["messages"][1]["content"]) % 4
        if number == 0:
            return Reply(completion(None, refusal=said))
        if number == 1:
            return Reply(completion(said if asked.tries == 2 else json.dumps({"said": said})))
        if number == 2:
            return Reply({"error": {"message": said}}, 400)
        return Reply(completion(json.dumps(label_of(asked.body) | {"summary": said}), model=said))

    world.write_world(30, backend="openai", max_quarantined=0.99)
    with Server(parrot) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("http://", f"http://user:{password}@"))
        main(["geography"])
        world.write_world(40, backend="openai", max_quarantined=0.0)
        with pytest.raises(ValueError, match="can't be used") as error:
            main(["geography"])
    with Server(lambda asked: Reply({"error": {"message": f"wrong: {KEY} {password}"}}, 401)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("http://", f"http://user:{password}@"))
        world.write_world(50, backend="openai")
        with pytest.raises(ValueError, match="wrong_key") as other:
            main(["geography"])
    files = [path for path in project.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sqlite" for path in files) and any(path.suffix == ".parquet" for path in files)
    texts = [path.read_bytes() for path in files]  # sqlite keeps text as it is, parquet may compress it
    texts += [str(pl.read_parquet(path).to_dicts()).encode() for path in files if path.suffix == ".parquet"]
    texts += [str(said).encode() for said in (*capsys.readouterr(), error.value, error.value.__context__, other.value)]
    for text in texts:
        assert KEY.encode() not in text and password.encode() not in text
    assert b"[secret]" in b"".join(texts)


def test_a_stand_in_for_a_key_is_no_secret():
    assert redact("an x marks it", {"OPENAI_API_KEY": "x"}) == "an x marks it"
    assert redact("12345678!", {"OPENAI_API_KEY": "12345678"}) == "[secret]!"
