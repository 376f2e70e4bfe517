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
from typing import Annotated

import polars as pl
from pydantic import Field, FiniteFloat, ValidationError

from ..run.errors import InputError, explain, one_line
from ..run.params import Section

BETA = 0.1
"""How sharply DPO holds two completions apart, TRL's default: it changes a gradient's norm alone."""
ASSISTANT, TEXT = "assistant", ""
"""The role of what is taught, and that of a prompt which is a text and no conversation."""


class Turn(Section):
    """One turn of a conversation."""

    role: str
    content: Annotated[str, Field(min_length=1)]


Turns = Annotated[tuple[Turn, ...], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)] | Turns


class Row(Section):
    """A row as it stands in a file; what it leaves out, or has as null, is None."""

    prompt: Text | None = None
    completion: Text | None = None
    messages: Turns | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    reward: FiniteFloat | None = None
    ref_chosen_logps: FiniteFloat | None = None
    ref_rejected_logps: FiniteFloat | None = None


ONE, PAIR = (("prompt", "completion"), ("messages",)), (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
COLUMNS = {
    **{frozenset(columns): "imitate" for columns in ONE},
    **{frozenset((*columns, "reward")): "reward" for columns in ONE},
    **{frozenset(columns): "preference" for columns in PAIR},
    **{frozenset((*columns, "ref_chosen_logps", "ref_rejected_logps")): "preference" for columns in PAIR},
}
"""The kind of a row by the columns that it fills."""


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
    advantage: float
    reference: float

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


def read_updates(data: str, ascent: bool, refuse: Callable[[InputError], None]) -> list[Update]:
    """The updates of a file's rows, in order.

    Args:
        data: a JSONL or Parquet file, or such files of a data set on the Hub (hf://datasets/...).
        ascent: what rows without reward and preference say is to be unlearned.
        refuse: told of each row that is refused, by file and line.

    Raises:
        InputError: the file can't be read, or holds no row.
    """
    found, rewards = [], defaultdict(list)
    for line, content in enumerate(_lines(data), 1):
        where = f"{data}:{line}"
        try:
            update = _update(Row.model_validate_json(content), line, ascent)
        except ValidationError as error:
            refuse(InputError(explain(where, error)))
        except InputError as error:
            refuse(InputError(f"{where}: {error}"))
        else:
            found.append(update)
            rewards[update.kind, update.prompt].append(update.advantage)
    for number, update in enumerate(found):
        if len(group := rewards[update.kind, update.prompt]) > 1:
            found[number] = replace(update, advantage=update.advantage - math.fsum(group) / len(group))
    return found


def _lines(data: str) -> list[bytes]:
    """The rows as JSON."""
    remote, form = data.startswith("hf://"), Path(data).suffix
    if form not in (".jsonl", ".parquet"):
        raise InputError(f"{data}: found a name that ends with {form!r}, wanted .jsonl or .parquet")
    if not remote and not Path(data).is_file():
        raise InputError(f"{data}: no such file: wanted one here, or hf://datasets/OWNER/NAME/FILE")
    try:
        if remote or form == ".parquet":
            table = (pl.scan_parquet if form == ".parquet" else pl.scan_ndjson)(data).collect()
            lines = [json.dumps(row, default=str).encode() for row in table.iter_rows(named=True)]
        else:
            lines = Path(data).read_bytes().splitlines()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{data}: not readable: {one_line(error)[:300]}") from error
    if not lines:
        raise InputError(f"{data}: found no row, wanted at least one")
    return lines


def _update(row: Row, line: int, ascent: bool) -> Update:
    given = frozenset(name for name in Row.model_fields if getattr(row, name) is not None)
    if given not in COLUMNS:
        raise InputError(
            f"found columns {', '.join(sorted(given)) or '(none)'}, wanted prompt and completion, or messages, either "
            "with reward or without; or chosen and rejected, with prompt or turns before them"
        )
    kind = COLUMNS[given]
    if ascent and kind != "imitate":
        raise InputError(f"found a {kind}, wanted rows without reward and preference where they are to be unlearned")
    texts = (row.messages or row.completion, row.chosen, row.rejected)
    (prompt, first), *others = (_said(row.prompt, text) for text in texts if text)
    if (prompt, first) in others:
        raise InputError("chosen and rejected are equal, wanted two different completions")
    if any(before != prompt for before, _ in others):
        raise InputError("chosen and rejected have different turns before the assistant's last, wanted the same")
    reference = (row.ref_chosen_logps or 0.0) - (row.ref_rejected_logps or 0.0)
    completions = (first, *(completion for _, completion in others))
    return Update(line, "unlearn" if ascent else kind, prompt, completions, row.reward or 0.0, reference)


def _said(before: str | Turns | None, text: str | Turns) -> tuple[tuple[Turn, ...], str]:
    """The prompt, and what the assistant says last (turns behind that are no part of it)."""
    parts = ((before or (), TEXT), (text, ASSISTANT))
    turns = [t for part, role in parts for t in ((Turn(role=role, content=part),) if isinstance(part, str) else part)]
    last = max((place for place, turn in enumerate(turns) if turn.role == ASSISTANT), default=None)
    if last is None:
        raise InputError(f"found no turn of the {ASSISTANT}, wanted one: it is what would be taught")
    if not last:
        raise InputError(f"found nothing before what the {ASSISTANT} says, wanted a prompt")
    return tuple(turns[:last]), turns[last].content
