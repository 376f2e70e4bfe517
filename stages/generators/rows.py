"""Generator "rows": behind the facts' prompts stand rows of one's own data, from data/rows/<domain>.jsonl or .parquet.

A row is a text and its completion; a preference makes two, its chosen and its rejected one. A reward or unlearning
changes only how long the gradient is, and its sign, and a preference's is the difference of two of a prompt: training
flips signs and takes differences itself. A row has kind `row`, no subject and no answer, and is split as facts are, by
the hash of its prompt. One that holds what is held out of the domain's facts goes to the test split.
"""

import re
from pathlib import Path

import polars as pl

from ..core.data.corrections import Prompts, drawn_split
from ..core.data.facts import Domain
from ..core.data.held_out import HeldOut, closed_names, held
from ..core.data.tables import PROMPTS, ROW
from ..core.data.updates import TEXT, read_updates
from ..core.labels.lexicon import padded
from ..core.run.errors import InputError
from ..core.run.seeds import digest
from .facts import estimate as estimate
from .facts import material as material

FOLDER, ENDINGS = Path("data/rows"), ("jsonl", "parquet")


def extended(table: pl.DataFrame, domain: Domain, params: Prompts, out: HeldOut) -> pl.DataFrame:
    """The facts' prompts and behind them the domain's own rows; of equal ones the first stays.

    Raises:
        InputError: there is no folder of rows, or a row can't stand in the table.
    """
    if not FOLDER.is_dir():
        raise InputError(f"{FOLDER}: no such folder, wanted <domain>.jsonl or .parquet there; or another generator")
    files = [path for ending in ENDINGS if (path := FOLDER / f"{domain.domain}.{ending}").is_file()]
    texts = pl.DataFrame([text for path in files for text in texts_of(path)], ["prompt", "target"], orient="row")
    new = texts.cast(pl.String).unique(maintain_order=True)
    new = new.join(table, on=new.columns, how="anti", maintain_order="left")

    relations = domain.relations.values()
    about = table.filter(held_out="subject")["subject"].unique()
    closed, subjects = ([padded(name) for name in each] for each in (closed_names(domain, out), about))
    last = [re.escape(relation.templates[-1]).replace(re.escape("{subject}"), ".+") for relation in relations]
    rows = []
    for prompt, target in new.iter_rows():
        asked, said = padded(prompt), padded(target)
        found = {
            "target": held(out, target, kind="") or any(name in said for name in closed),
            "answer": any(name in asked for name in closed),
            "subject": any(name in asked + said for name in subjects),
            "template": any(re.fullmatch(each, prompt) for each in last),
        }
        reason = next((each for each, holds in found.items() if holds), "none")
        split = drawn_split(params, prompt) if reason == "none" else "test"
        key = digest(domain.domain, "rows", prompt, target, ROW)[:16]
        rows.append((key, domain.domain, "rows", "", prompt, prompt, None, target, ROW, split, reason))
    closed_rows = sum(reason != "none" for *_, reason in rows)
    where = ", ".join(map(str, files)) or f"{FOLDER}: no file of {domain.domain}"
    print(f"{where}: {len(rows)} of {len(texts)} rows, {closed_rows} hold what is held out and do not train")
    return pl.concat([table, pl.DataFrame(rows, schema=PROMPTS, orient="row")])


def texts_of(path: Path) -> list[tuple[str, str]]:
    """Prompt and completion of each row of a file, or both completions, without white space around them.

    Raises:
        InputError: a row can't be read, or its prompt is no text.
    """
    wrong: list[InputError] = []
    found = []
    for update in read_updates(str(path), ascent=False, refuse=wrong.append):
        (turn, *more), said = update.prompt, [text.strip() for text in update.completions]
        problems = {
            "a conversation, wanted its text in prompt, as the model's chat template lays it out": more
            or turn.role != TEXT,
            "white space alone, wanted words in prompt and completion": not all((turn.content.strip(), *said)),
        }
        wrong += [InputError(f"{path}:{update.line}: found {what}") for what, holds in problems.items() if holds][:1]
        found += [(turn.content, text) for text in said]
    if wrong:
        raise wrong[0]
    return found
