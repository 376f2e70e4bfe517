"""What dvc.lock says was paid for is asked again on purpose only; what is new is asked at once."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.core.api.section import Api
from stages.core.data.corrections import Prompts
from stages.core.data.facts import read_domain
from stages.core.labels.requests import label_requests
from stages.generators.openai import material
from stages.labellers.openai import BUILT_IN, MADE_OF
from stages.labels import Sections, job_of, main
from tests.labellers import world
from tests.labellers.checks import ROOT, Serve, last_run
from tests.labellers.server import Asked, Reply, Server, completion, is_repair, teacher

ROWS = 10
READ = ("data/virtual_step/geography.parquet", "data/prompts/geography.parquet", *BUILT_IN)
SECOND = {"share": 0.5, "seed": 0, "teacher": world.TEACHER | {"model": "second"}}
PRICES = {name: {"input": 1.0, "output": 2.0, "batch": 0.5} for name in ("tiny", "other", "second")}
REFUSED = r"^dvc.lock: labels@geography: has been paid for: .* but 10 of its answers are not in .cache/labels here"


def write_all(rows: int = ROWS, **labels: Any) -> dict[str, Any]:
    """A project and the code that builds its requests; returns the params."""
    labels = {"backend": "openai", "api": {"prices": PRICES}} | labels
    world.write_world(rows, **labels)
    for name in BUILT_IN:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, name)
    return world.params(**labels)


def lock(params: dict[str, Any], stage: str = "labels", read: Sequence[str] = READ) -> None:
    """Writes dvc.lock as it is after the stage has finished."""
    deps = [{"path": name, "hash": "md5", "md5": hashlib.md5(Path(name).read_bytes()).hexdigest()} for name in read]
    entry = {"cmd": f"python -m stages.{stage} geography", "deps": deps}
    entry["params"] = {"params.yaml": {stage: params[stage]}}
    with Path("dvc.lock").open("w", encoding="utf-8") as stream:
        YAML().dump({"schema": "2.0", "stages": {f"{stage}@geography": entry}}, stream)


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(teacher)


def test_what_was_paid_for_is_asked_again_only_on_purpose(monkeypatch: pytest.MonkeyPatch, server: Server):
    lock(write_all())
    for key in ("sk-secret-0123456789", ""):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ValueError, match=REFUSED) as error:
            main(["geography"])
        assert "dvc pull labels@geography" in str(error.value) and "\n" not in str(error.value)
    assert not server.asked and not Path("data/labels").exists()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    monkeypatch.setenv("LABELS_PAY_AGAIN", "yes")
    with pytest.raises(ValueError, match=r"LABELS_PAY_AGAIN: found 'yes', wanted 1"):
        main(["geography"])
    monkeypatch.setenv("LABELS_PAY_AGAIN", "1")
    main(["geography"])
    assert len(server.asked) == ROWS
    monkeypatch.delenv("LABELS_PAY_AGAIN")
    main(["geography"])  # whoever has the answers is not bothered
    assert last_run()["cached"] == len(server.asked) == ROWS


@pytest.mark.parametrize("gone", ["file", "stages", "stage"])
def test_without_a_finished_run_nothing_is_checked(gone: str, server: Server):
    lock(write_all())
    path = Path("dvc.lock")
    other = {"stages": "schema: '2.0'\n", "stage": path.read_text().replace("labels@geography", "labels@astronomy")}
    path.write_text(other[gone]) if gone in other else path.unlink()
    main(["geography"])
    assert len(server.asked) == ROWS


def test_a_lock_that_is_no_yaml_is_said_before_anything_is_asked(server: Server):
    lock(write_all())
    Path("dvc.lock").write_text("<<<<<<< HEAD\nstages:\n=======\n")
    with pytest.raises(ValueError, match=r"^dvc.lock: not readable as YAML"):
        main(["geography"])
    assert not server.asked


def test_a_server_that_costs_nothing_is_asked(server: Server):
    lock(write_all(api={"prices": {"tiny": {"input": 0.0, "output": 0.0, "batch": 1.0}}}))
    main(["geography"])
    assert len(server.asked) == ROWS


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_edit_where_requests_are_built_is_asked_for(name: str, server: Server):
    lock(write_all())
    with Path(name).open("a", encoding="utf-8") as stream:
        stream.write("\n")
    main(["geography"])
    assert len(server.asked) == ROWS


def test_other_shifts_are_asked_for(server: Server):
    lock(write_all(rows=ROWS - 1))
    write_all()
    main(["geography"])
    assert len(server.asked) == ROWS


CHANGES = {
    "backend": None,  # of this backend alone
    "lexicon": ["geography", "astronomy"],
    "teacher_sees": "truth",
    "fields": ["astronomy", "chemistry", "geography", "music", "art"],
    "top_tokens": 1,
    "way": "batch",
    "max_quarantined": 0.2,
    "recurring": 0.6,
    "teacher": world.TEACHER | {"model": "other"},
    "second": SECOND,
}


@pytest.mark.parametrize("key", CHANGES)
def test_exactly_the_params_that_requests_hold_something_of_are_compared(key: str):
    params = write_all()
    assert CHANGES.keys() == params["labels"].keys()
    assert (key in MADE_OF) == (CHANGES[key] is None or requests() != requests(**{key: CHANGES[key]}))


def requests(**labels: Any) -> list[bytes]:
    """The bodies of the first teacher's requests."""
    params = world.params(**labels)
    job = job_of("geography", Sections.model_validate({name: params[name] for name in ("labels", "api")}))
    return [request.canonical for request in label_requests(job, job.params.teacher).values()]


def test_a_second_teacher_is_asked_and_the_first_not_paid_again(server: Server):
    lock(write_all())
    write_all(second=SECOND)
    with pytest.raises(ValueError, match=REFUSED):
        main(["geography"])
    assert not server.asked
    Path("dvc.lock").rename("aside")
    write_all()
    main(["geography"])  # as whoever paid
    Path("aside").rename("dvc.lock")
    write_all(second=SECOND)
    main(["geography"])
    assert len(server.asked) > ROWS and {asked.body["model"] for asked in server.asked[ROWS:]} == {"second"}


def test_a_repair_that_was_paid_for_is_not_asked_again(serve: Serve):
    """All first answers are here, which can't be used, and their repairs are not."""

    def script(asked: Asked) -> Reply:
        return Reply({"error": {"message": "no"}}, 401) if is_repair(asked) else Reply(completion("{}"))

    params, server = write_all(), serve(script)
    with pytest.raises(ValueError, match="wrong_key"):
        main(["geography"])
    lock(params)
    before = len(server.asked)
    assert before > ROWS
    with pytest.raises(ValueError, match=REFUSED):
        main(["geography"])
    assert len(server.asked) == before


def test_prompts_that_were_paid_for_are_not_asked_for_again(server: Server):
    params = {"paraphrases": 2, "wrong_answers": 2, "way": "online", "max_quarantined": 0.2, "teacher": world.TEACHER}
    api = Api.model_validate({"budget": 1.0, "prices": PRICES})
    read = ["data/facts/geography.yaml", "stages/generators/openai.py", "stages/generators/generator.md"]
    world.write_facts()
    Path("stages/generators").mkdir(parents=True)
    for name in read[1:]:
        shutil.copy(ROOT / name, name)
    section = {"generator": "openai", "openai": params, "targets": 4, "further_targets": 0, "correction_templates": 1}
    section |= {"validation": 0.1, "test": 0.2, "seed": 1}
    lock({"prompts": section}, "prompts", read)
    domain = read_domain("geography")

    def generate(**changes: Any) -> None:
        material(domain, Prompts.model_validate(section | {"openai": params | changes}), api)

    for other in ({}, {"max_quarantined": 0.3}, {"way": "batch"}):
        with pytest.raises(ValueError, match=r"prompts@geography: has been paid for: .* 6 of its answers"):
            generate(**other)
    assert not server.asked
    for other in ({"paraphrases": 3}, {"wrong_answers": 3}, {"teacher": world.TEACHER | {"model": "other"}}):
        before = len(server.asked)
        with pytest.raises(ValueError):  # what this server says is no prompt
            generate(**other)
        assert len(server.asked) > before


def test_budget_and_prices_change_no_byte_of_what_was_paid_for(server: Server):
    outputs = [Path("data/labels", name) for name in ("geography.parquet", "metrics/geography.json")]
    outputs += [Path("data/labels", kind, "geography.parquet") for kind in ("quarantine", "second")]
    write_all(second=SECOND)
    main(["geography"])
    first, asked = [path.read_bytes() for path in outputs], len(server.asked)
    dearer = {name: {"input": 7.0, "output": 9.0, "batch": 1.0} for name in PRICES}
    write_all(second=SECOND, api={"budget": 0.5, "prices": dearer})
    main(["geography"])
    assert [path.read_bytes() for path in outputs] == first and len(server.asked) == asked
