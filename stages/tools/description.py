"""What is said about one gradient, as data, as text for a terminal, as HTML for a notebook and as JSON.

No torch in here: `describe.py` measures, this file shows.
"""

import json
import math
from dataclasses import asdict, dataclass
from io import StringIO
from itertools import zip_longest

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..core.data.grammar import Report, parse_report

SHOWN = 5
"""Tokens up and down that the table shows; the data and the JSON hold all that params asks for."""
WIDTH = 100
"""Characters a line, where no terminal says how many."""
NOTHING = "(nothing)"
IDLE = "With nothing injected it writes, about no gradient at all"

Shift = tuple[str, float]


@dataclass(frozen=True)
class Asked:
    """A question about the felt update, what the model answers, and what it answers with nothing injected."""

    question: str
    answer: str
    without: str


@dataclass(frozen=True)
class Step:
    """One virtual step. `size`: epsilon, a fraction of the residual norm; shifts and log-probabilities in nats.

    Log-probabilities are of the first token; `target_rank` 1 is the most likely token after the step.
    """

    size: float
    up: tuple[Shift, ...]
    down: tuple[Shift, ...]
    says: str
    target_logprob: float
    answer_logprob: float | None
    target_rank: int
    kl: float


@dataclass(frozen=True)
class Description:
    """One gradient described.

    Attributes:
        prompt, target: what the gradient is of. answer: what the model would say, as given; None: see `says`.
        host: the prompt in front of the slots; None: no host.
        model: its id. layer: of the virtual step. projector: its architecture; "raw": the update direction itself.
        projector_layers: whose gradients the report is made from.
        loss: -log p(target | prompt), nats.
        strength: |g| at the first place at the projector's layers, each as a multiple of the median over the gradients
            it was made with; empty where no projector has been made.
        says: the greedy continuation before the step.
        target_token, answer_token: the first token of the target, and of the answer (else of what the model says; None
            if that is the target's). target_logprob, answer_logprob: theirs before the step, nats.
        steps: one for each of virtual_step.step_sizes.
        explained: the share of the gradient's squared norm, at the last prompt token and the last of these layers, that
            lies in the span of the report's names; 0 without a name.
        report, without: what the model writes with this gradient in its slots, and with nothing injected.
        confidence: of the gate, that a report accounts for what is read; below 0.5 slots hold zeros. None: no gate.
        subject: the words at whose last token the gradient was read too. at_subject: what the model writes of it then,
            through a map fitted in closed form. explained_at_subject: the share of what the map makes of the gradient
            that the report's names account for. None: not asked for.
        asked: the questions that were asked besides.
        notes: what a reader should know before believing the report.
    """

    prompt: str
    target: str
    answer: str | None
    host: str | None
    model: str
    layer: int
    projector: str
    projector_layers: tuple[int, ...]
    loss: float
    strength: tuple[float, ...]
    says: str
    target_token: str
    target_logprob: float
    answer_token: str | None
    answer_logprob: float | None
    steps: tuple[Step, ...]
    report: str
    explained: float
    confidence: float | None
    without: str
    subject: str | None
    at_subject: str | None
    explained_at_subject: float | None
    asked: tuple[Asked, ...]
    notes: tuple[str, ...]

    @property
    def parsed(self) -> Report:
        """The report, read as the evaluation reads it."""
        return parse_report(self.report)

    def json(self) -> str:
        """Everything as indented JSON, the parsed report with it."""
        return json.dumps({**asdict(self), "parsed": asdict(self.parsed)}, indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=WIDTH, color_system=None)
        with console.capture() as captured:
            console.print(self.__rich__())
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __rich__(self) -> RenderableType:
        where = f"in front of “{self.host}”" if self.host else "without a host prompt"
        gate = "" if self.confidence is None else f" (an update: {self.confidence:.2f})"
        parts: list[RenderableType] = [
            Text.assemble(
                (self.prompt, "bold"), " … ", (self.target, "bold green"), f" (the model says: {self.says or NOTHING})"
            ),
            Text(self._measures(), "dim"),
            Text(),
            self._shifts(),
            Text(),
            Text(f"With this gradient in its slots, {where}, the model reports{gate}:"),
            Padding(Text(self.report or NOTHING, "bold"), (0, 0, 0, 2)),
            Text(f"Its names account for {self.explained:.0%} of the gradient.", "dim"),
            Text(f"{IDLE}:"),
            Padding(Text(self.without or NOTHING, "dim"), (0, 0, 0, 2)),
        ]
        if self.explained_at_subject is not None:
            parts += [
                Text(f"Of the same loss's gradient at the last token of “{self.subject}” it reports:"),
                Padding(Text(self.at_subject or NOTHING, "bold"), (0, 0, 0, 2)),
                Text(f"Its names account for {self.explained_at_subject:.0%} of what is read there.", "dim"),
            ]
        for one in self.asked:
            without = f" (with nothing injected: {one.without or NOTHING})"
            parts.append(Text.assemble(one.question, " ", (one.answer or NOTHING, "bold"), (without, "dim")))
        if self.notes:
            parts += [Text(), *(Text.assemble(("note: ", "yellow"), note) for note in self.notes)]
        return Group(*parts)

    def _repr_html_(self) -> str:
        console = Console(record=True, file=StringIO(), width=WIDTH)
        console.print(self.__rich__())
        return console.export_html(inline_styles=True, code_format="<div><pre>{code}</pre></div>")

    def _measures(self) -> str:
        each = (f"{x:.2f} at layer {layer}" for x, layer in zip(self.strength, self.projector_layers, strict=False))
        norms = f"; gradient, over the usual norm: {', '.join(each)}" if self.strength else ""
        return f"loss {self.loss:.2f} nats{norms}; read by: {self.projector}"

    def _shifts(self) -> Table:
        """A column for each step: tokens up and down, what becomes of target and answer, what the model says."""
        steps, title = self.steps, f"Virtual step at layer {self.layer}: shifts of log-probability, nats"
        table = Table(title=title, title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0))
        table.add_column("step size", no_wrap=True, style="dim")
        for step in steps:
            table.add_column(f"{step.size:g}", no_wrap=True, overflow="ellipsis", header_style="bold")
        for kind, style in (("up", "green"), ("down", "red")):
            columns = [[x for x in getattr(step, kind)[:SHOWN] if (x[1] > 0) == (kind == "up")] for step in steps]
            for number, row in enumerate(zip_longest(*columns)):
                cells = (Text(f"{item[1]:+.1f}  {item[0]}" if item else "", style) for item in row)
                table.add_row("" if number else kind, *cells)
        tokens = [(self.target_token, self.target_logprob, [step.target_logprob for step in steps])]
        if self.answer_logprob is not None:
            tokens.append((self.answer_token or "", self.answer_logprob, [step.answer_logprob or 0 for step in steps]))
        for token, before, after in tokens:
            table.add_row(f"p({token})", *(f"{share(before)} → {share(each)}" for each in after))
        table.add_row("says, before", *(Text(self.says or NOTHING) for _ in steps))
        table.add_row("says, after", *(Text(step.says or NOTHING) for step in steps))
        return table


def share(logprob: float) -> str:
    """A log-probability (nats) as a percentage."""
    percent = 100 * math.exp(min(logprob, 0.0))
    return f"{percent:.0f}%" if percent >= 9.95 else f"{percent:.1f}%" if percent >= 0.05 else "<0.1%"
