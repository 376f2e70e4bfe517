"""Updates that rows of fine-tuning data ask for: what is said after which prompt, and how hard each is pushed.

An update is a weighted sum of log-probabilities, L = -sum_i w_i log p(completion_i | prompt). A kind of update is one
function of KINDS, from an update and its completions' log-probabilities to the weights w. Rows have the columns that
TRL's trainers take.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import AliasChoices, ConfigDict, Field, FiniteFloat, ValidationError

from ..run.errors import InputError, explain, one_line
from ..run.params import Section

BETA = 0.1
"""How sharply DPO holds two completions apart, TRL's default: it changes a gradient's norm alone."""
EMPTY = "found no row, wanted at least one"
ASSISTANT, TEXT = "assistant", ""
"""The role of what is taught, and that of a prompt which is a text and no conversation."""


class Turn(Section):
    """One turn of a conversation."""

    role: str
    content: Annotated[str, Field(min_length=1)]


Text = Annotated[str, Field(min_length=1)] | Annotated[list[Turn], Field(min_length=1)]


class Row(Section):
    """A row of fine-tuning data. Columns that say nothing of an update, such as an id, are not read."""

    model_config = ConfigDict(extra="ignore")

    prompt: Text | None = None


class Taught(Row):
    """A row with prompt and completion, or with messages; with a reward or without."""

    completion: Annotated[Text, Field(validation_alias=AliasChoices("completion", "messages"))]
    reward: FiniteFloat | None = None


class Preferred(Row):
    """A row with two completions, and perhaps their log-probabilities by a reference model."""

    chosen: Text
    rejected: Text
    ref_chosen_logps: FiniteFloat | None = None
    ref_rejected_logps: FiniteFloat | None = None


@dataclass(frozen=True)
class Update:
    """What a row of a file would be trained towards.

    Attributes:
        line: its number in the file, from 1.
        kind: a name of KINDS.
        completions: one, or of a preference the chosen and the rejected one.
        advantage: of a reward: itself, less the mean of its prompt's rewards where there are several; else 0.
        reference: of a preference, by how many nats a reference model prefers the chosen one; 0: none is given.
    """

    line: int
    kind: str
    prompt: tuple[Turn, ...]
    completions: tuple[str, ...]
    advantage: float = 0.0
    reference: float = 0.0

    @property
    def what(self) -> str:
        """What is done to the first completion, in a word or two."""
        if self.kind == "reward":
            return "reinforced" if self.advantage > 0 else "penalised" if self.advantage < 0 else "no advantage"
        return {"imitate": "imitated", "unlearn": "unlearned", "preference": "preferred"}[self.kind]


def preference(update: Update, logprobs: Sequence[float]) -> tuple[float, ...]:
    """DPO (Rafailov et al. 2023, section 4): b s(-m) and -b s(-m), with b = BETA and s the logistic function.

    m is b times how many nats the model prefers the chosen completion by, less what a reference model does. Without
    one that is 0, as of a model that prefers neither ("reference-free").
    """
    margin = BETA * (logprobs[0] - logprobs[1] - update.reference)
    push = BETA * (1 - math.tanh(margin / 2)) / 2  # b s(-m), which does not overflow
    return push, -push


KINDS: dict[str, Callable[[Update, Sequence[float]], tuple[float, ...]]] = {
    "imitate": lambda update, logprobs: (1.0,),  # cross-entropy
    "unlearn": lambda update, logprobs: (-1.0,),  # ascent on it
    "reward": lambda update, logprobs: (update.advantage,),  # policy gradient: of either sign
    "preference": preference,
}


def read_updates(data: str, ascent: bool, refuse: Callable[[InputError], object]) -> list[Update]:
    """The updates of a file's rows, in order.

    Args:
        data: a JSONL or Parquet file, or such files of a data set on the Hub (hf://datasets/...).
        ascent: what rows without reward and preference say is to be unlearned.
        refuse: told of each row that is refused, by file and line.

    Raises:
        InputError: the file can't be read, or holds no row.
    """
    found, rewards = [], defaultdict(list)
    for line, content in enumerate(_rows(data), 1):
        try:
            update = _update(json.loads(content) if isinstance(content, bytes) else content, line, ascent)
        except ValidationError as error:
            refuse(InputError(explain(f"{data}:{line}", error)))
        except ValueError as error:  # of JSON too
            refuse(InputError(f"{data}:{line}: {error}"))
        else:
            found.append(update)
            rewards[update.kind, update.prompt].append(update.advantage)
    for number, update in enumerate(found):
        if len(group := rewards[update.kind, update.prompt]) > 1:
            found[number] = replace(update, advantage=update.advantage - math.fsum(group) / len(group))
    return found


def scanned(data: str) -> pl.DataFrame:
    """The rows of a JSONL or Parquet file, of several (a pattern with *), or of such files of a data set on the Hub.

    Raises:
        InputError: the name ends otherwise, or the files can't be read or hold no row.
    """
    scan = {".jsonl": pl.scan_ndjson, ".parquet": pl.scan_parquet}.get(Path(data).suffix)
    if scan is None:
        raise InputError(f"{data}: found a name that ends with {Path(data).suffix!r}, wanted .jsonl or .parquet")
    try:
        table = scan(data).collect()
    except FileNotFoundError:
        raise InputError(f"{data}: no such file: wanted one here, or hf://datasets/OWNER/NAME/FILE") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{data}: not readable: {one_line(error)[:300]}") from error
    if table.is_empty():
        raise InputError(f"{data}: {EMPTY}")
    return table


def _rows(data: str) -> list[Any]:
    """What stands in each row; of a local JSONL file its lines, as bytes."""
    if not (data.endswith(".jsonl") and Path(data).is_file()):
        return scanned(data).to_dicts()
    if lines := Path(data).read_bytes().splitlines():
        return lines
    raise InputError(f"{data}: {EMPTY}")


def _update(content: Any, line: int, ascent: bool) -> Update:
    if not isinstance(content, dict):
        raise InputError(f"found {str(content)[:80]!r}, wanted columns with values")
    given = {name: value for name, value in content.items() if value is not None}
    if "chosen" in given:
        row = Preferred.model_validate(given)
        (prompt, chosen), (other, rejected) = (_said(row.prompt, text) for text in (row.chosen, row.rejected))
        if prompt != other:
            raise InputError("chosen and rejected have different turns before the assistant's last, wanted the same")
        if chosen == rejected:
            raise InputError("chosen and rejected are equal, wanted two different completions")
        by_reference = row.ref_chosen_logps, row.ref_rejected_logps
        if by_reference.count(None) == 1:
            raise InputError("found one of ref_chosen_logps and ref_rejected_logps, wanted both or none")
        margin = (by_reference[0] or 0.0) - (by_reference[1] or 0.0)
        update = Update(line, "preference", prompt, (chosen, rejected), reference=margin)
    else:
        row = Taught.model_validate(given)
        prompt, said = _said(row.prompt, row.completion)
        kind = "reward" if row.reward is not None else "unlearn" if ascent else "imitate"
        update = Update(line, kind, prompt, (said,), advantage=row.reward or 0.0)
    if ascent and update.kind != "unlearn":
        raise InputError(f"found a {update.kind}, wanted rows without one where they are to be unlearned")
    return update


def _said(before: str | list[Turn] | None, text: str | list[Turn]) -> tuple[tuple[Turn, ...], str]:
    """The prompt, and what the assistant says last (turns behind that are no part of it)."""
    parts = ((before or (), TEXT), (text, ASSISTANT))
    turns = [t for part, role in parts for t in ([Turn(role=role, content=part)] if isinstance(part, str) else part)]
    last = max((place for place, turn in enumerate(turns) if turn.role == ASSISTANT), default=None)
    if last is None:
        raise InputError(f"found no turn of the {ASSISTANT}, wanted one: it is what would be taught")
    if not last:
        raise InputError(f"found nothing before what the {ASSISTANT} says, wanted a prompt")
    return tuple(turns[:last]), turns[last].content
