"""Describes one gradient: what it would do to the model, and what the model says of it when it is put into its slots.

From Python:

  from gradaware import describe
  describe("The capital of France is", target="Madrid", ask=["The currency of <felt> is"])

Reads params.yaml, data/model/, data/facts/, data/projector/ (where there is none, the raw update direction is read)
and, for a subject, data/prompts, data/labels and data/gradients. Writes nothing. The value is a frozen dataclass (see
description.py) that shows itself in a notebook, prints as text and turns into JSON.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch

from ..core.data.facts import read_domain
from ..core.data.gathering import gather
from ..core.data.grammar import parse_report
from ..core.data.places import FIRST, SUBJECT
from ..core.data.questions import FELT, OPPOSITE, check_place
from ..core.engine.gradients import activation_gradients
from ..core.engine.samples import BadRowsError, Sample, subject_token
from ..core.evaluate.interview import at_subject
from ..core.grounding.features import explained
from ..core.model.opening import ModelCard
from ..core.reader.card import Card
from ..core.reader.gate import FAINT
from ..core.reader.injection import Slots
from ..core.reader.reader import Reader
from ..core.reader.reports import accounted_for, answers_of, bare_reports, longest_names, prompts_of, through_gate
from ..core.reader.vocabulary import Tokens
from ..core.run.errors import InputError
from ..core.steps.virtual_step import ShiftBatch, virtual_steps
from .description import Asked, Description, Step
from .reading import PROJECTOR, Sections, check_letters, open_reader, quiet


def describe(
    prompt: str,
    target: str,
    host: str | None = None,
    answer: str | None = None,
    ask: Sequence[str] = (),
    root: Path | str = ".",
    subject: str | None = None,
) -> Description:
    """The description of one gradient, by the model and projector of the repository at `root`, opened for it.

    Raises:
        InputError: see `Describer.open` and `Describer.__call__`.
    """
    return Describer.open(root)(prompt, target, host, answer, ask, subject)


class Describer:
    """A model and its projector, opened once for many gradients: call it with a prompt and a target."""

    def __init__(
        self, reader: Reader, model: ModelCard, settings: Sections, entities: frozenset[str], root: Path
    ) -> None:
        """`entities`: all that the projector's labels could name. `root`: the repository that they are of."""
        self.reader, self.model, self.settings, self.entities, self.root = reader, model, settings, entities, root
        self.tokens = settings.evaluation.report_tokens
        reader.decoder.check_layer(settings.virtual_step.layer, key="params.yaml: virtual_step.layer")

    @classmethod
    def open(cls, root: Path | str = ".") -> "Describer":
        """Opens what the pipeline has made in the repository at `root`.

        Raises:
            InputError: no model is there, model and projector don't fit together, or params are wrong.
        """
        if not Path(root).is_dir():
            raise InputError(f"{root}: no such folder: wanted the repository's root")
        with contextlib.chdir(root), quiet():
            reader, model, settings = open_reader()
            domains = [name for name in settings.domains if name not in reader.card.held_out_domains]
            entities = frozenset(entity for name in domains for entity in read_domain(name).entities)
        return cls(reader, model, settings, entities, Path(root).absolute())

    @cached_property
    def at_subject(self) -> Reader:
        """The reader of gradients at a subject's last token; its map is fitted to data/gradients when first needed.

        Raises:
            InputError: a table or store is missing, of another run, or has no gradient at a subject's token.
        """
        card = self.reader.card
        with contextlib.chdir(self.root), quiet():
            data = gather(self.settings.domains, card.layers, places=card.places).corrections()
            if (found := at_subject(self.reader.decoder, card, data)) is None:
                raise InputError(
                    f"data/gradients: found no gradients at a subject's token, wanted some: name {SUBJECT} in "
                    "params.yaml: gradients.places and run dvc repro"
                )
        return found[0]

    def __call__(
        self,
        prompt: str,
        target: str,
        host: str | None = None,
        answer: str | None = None,
        ask: Sequence[str] = (),
        subject: str | None = None,
    ) -> Description:
        """Describes the gradient of -log p(target | prompt).

        Args:
            prompt: a text that ends right before the answer.
            target: what the model should say instead.
            host: another prompt, in front of which the model reports; None: no host.
            answer: what the model would say; None: what it says.
            ask: questions of your own, with `<felt>` where the felt update goes; asked without the host.
            subject: words of the prompt at whose last token the gradient is read too; None: nowhere else.

        Raises:
            InputError: a text is empty, too long or not in the tokenizer's letters; target and answer are the same; a
                question has no place for the felt update; or the subject does not stand in the prompt.
        """
        questions = [check_place(" ".join(question.split())) for question in ask]
        with quiet():
            texts = {"prompt": prompt, "target": target, "host": host, "answer": answer, "subject": subject}
            texts |= {"ask": " ".join(questions).replace(FELT, "").replace(OPPOSITE, "") or None}
            return self._describe({name: text and " ".join(text.split()) for name, text in texts.items()}, questions)

    def _describe(self, texts: dict[str, str | None], questions: Sequence[str]) -> Description:
        self._check(texts)
        prompt, target, host, answer = texts["prompt"] or "", texts["target"] or "", texts["host"], texts["answer"]
        decoder, card, step = self.reader.decoder, self.reader.card, self.settings.virtual_step
        known = None if answer is None else tuple(decoder.continuation(answer))
        sample = Sample(tuple(decoder.tokens(prompt)), tuple(decoder.continuation(target)), known)
        layers, places = list(dict.fromkeys([*card.layers, step.layer])), list(dict.fromkeys([FIRST, *card.places]))
        if (subject := texts["subject"]) is not None:
            at = subject_token(decoder.tokens, prompt, prompt.replace(subject, "{subject}", 1), subject)
            if at is None:
                raise InputError(
                    f"subject: found {subject!r}, wanted words of the prompt {shorten(prompt, 60)!r} that end with a "
                    "token"
                )
            sample = replace(sample, subject=at)
            layers, places = list(dict.fromkeys([*layers, *self.at_subject.card.layers])), [*places, SUBJECT]
        try:
            measured = next(activation_gradients(decoder, [sample], layers, places))
            gradient = measured.gradient.reshape(1, len(places), len(layers), -1)
            if answer is None and (said := (int(measured.top_token[0]),)) != sample.target:
                sample = replace(sample, answer=said)
            along = gradient[:, 0, [layers.index(step.layer)]]
            steps = virtual_steps(
                decoder, [sample], along, [step.layer], step.step_sizes,
                top_tokens=step.top_tokens, continuation_tokens=step.continuation_tokens,
            )  # fmt: skip
            shifts = next(steps)
        except BadRowsError as error:
            raise InputError(f"{shorten(prompt, 60)!r} -> {shorten(target, 60)!r}: {error.reason}") from error

        def taken(card: Card) -> torch.Tensor:
            at = [places.index(place) for place in card.places], [layers.index(layer) for layer in card.layers]
            return torch.from_numpy(gradient[0][np.ix_(*at)].reshape(1, -1, gradient.shape[-1]))

        read, last = taken(card), gradient[:, 0, layers.index(card.layers[-1])]
        filled = self.reader.read(read)
        if len(sample.target) > len(card.places):  # a sentence: later slots hold no tokens of the name in front
            (said,) = longest_names(self.reader, filled, [None], self.tokens)
            name = decoder.continuation(parse_report(said).moved_to or target)
            filled = Slots(filled.felt, filled.opposite, filled.count.clamp_max(len(name)))
        slots, confidence = through_gate(self.reader, read, filled, bare_reports(self.reader, filled), FAINT)
        (report,), (without,) = (self._say([host], [card.question], filled) for filled in (slots, None))
        answers, others = (self._say([None] * len(questions), questions, filled) for filled in (slots, None))
        there, share = None, None
        if subject is not None:
            filled = self.at_subject.read(taken(self.at_subject.card))
            (there,) = self._say([host], [card.question], filled)
            share = float(accounted_for(self.at_subject, filled, [there])[0])
        return Description(
            prompt=prompt,
            target=target,
            answer=answer,
            host=host,
            model=self.model.id,
            layer=step.layer,
            projector=card.architecture,
            projector_layers=card.layers,
            loss=-float(measured.target_logprob[0]),
            strength=tuple(self.reader.strength(read)[0].tolist()) if card.reference else (),
            says=decoder.text(shifts.continuation_before[0]),
            target_token=decoder.text(sample.target[:1]),
            target_logprob=float(shifts.target_before[0]),
            answer_token=decoder.text(sample.answer[:1]) if sample.answer else None,
            answer_logprob=float(shifts.answer_before[0]) if sample.answer else None,
            steps=tuple(self._step(shifts, sample, index) for index in range(len(step.step_sizes))),
            report=report,
            explained=float(explained(Tokens(decoder, output=True), -last, [parse_report(report)])[0]),
            subject=subject,
            at_subject=there,
            explained_at_subject=share,
            confidence=float(confidence[0]) if card.reference else None,
            without=without,
            asked=tuple(map(Asked, questions, answers, others)),
            notes=tuple(self._notes(texts, shifts.continuation_before[0], sample)),
        )

    def _say(self, hosts: Sequence[str | None], questions: Sequence[str], slots: Slots | None) -> list[str]:
        """What the model answers, with the same slots in each question (None: untouched ones).

        Raises:
            InputError: host, question and answer together are longer than the context.
        """
        each = None if slots is None else slots[torch.zeros(len(questions), dtype=torch.long)]
        limit = self.reader.decoder.context_length
        for prompt, question in zip(prompts_of(self.reader, hosts, questions, each), questions, strict=True):
            if limit is not None and (long := len(prompt.ids) + self.tokens) > limit:
                raise InputError(
                    f"question {question!r}: needs {long} tokens with its host and answer, wanted at most {limit}: "
                    "shorten it"
                )
        return answers_of(self.reader, hosts, questions, each, self.tokens)

    def _check(self, texts: Mapping[str, str | None]) -> None:
        """Refuses texts that can't be measured.

        Raises:
            InputError: names the text, what was found and what was wanted.
        """
        for name, text in texts.items():
            if text == "":
                none = "" if name in ("prompt", "target") else f": leave --{name} out for none"
                raise InputError(f"{name}: found no words, wanted some{none}")
            check_letters(self.reader, text or "", name)
        if texts["answer"] is not None and texts["answer"] == texts["target"]:
            raise InputError(f"target and answer are both {texts['target']!r}: wanted another target to move to")

    def _step(self, shifts: ShiftBatch, sample: Sample, index: int) -> Step:
        at, decoder = (0, 0, index), self.reader.decoder

        def tokens(ids: np.ndarray, sizes: np.ndarray) -> tuple[tuple[str, float], ...]:
            pairs = zip(ids[at].tolist(), sizes[at].tolist(), strict=True)
            return tuple((decoder.text([token]) or repr(token), size) for token, size in pairs)

        return Step(
            size=self.settings.virtual_step.step_sizes[index],
            up=tokens(shifts.up_ids, shifts.up_shifts),
            down=tokens(shifts.down_ids, shifts.down_shifts),
            says=decoder.text(shifts.continuation_after[0][0][index]),
            target_logprob=float(shifts.target_after[at]),
            answer_logprob=float(shifts.answer_after[at]) if sample.answer else None,
            target_rank=int(shifts.target_rank[at]),
            kl=float(shifts.kl[at]),
        )

    def _notes(self, texts: Mapping[str, str | None], before: Sequence[int], sample: Sample) -> list[str]:
        """What a reader should know before believing the report."""
        target, notes = texts["target"], []
        if tuple(before[: len(sample.target)]) == sample.target:
            notes.append(f"the model says {target!r} already: there is next to nothing to correct")
        if list(self.reader.trained.parameters()) and target not in self.entities:
            notes.append(
                f"{target!r} is no answer in data/facts of the domains that the projector was trained on: "
                "it has never had to name it, and may name something else"
            )
        if not self.reader.card.reference:
            notes.append(f"no projector is here ({PROJECTOR} is missing): the raw update direction is read")
        if self.model.source == "pocket":
            for name, text in texts.items():
                words = dict.fromkeys(re.findall(r"\w+", text or ""))
                if spelt := [repr(word) for word in words if len(self.reader.decoder.continuation(word)) > 1]:
                    notes.append(
                        f"{name}: the pocket model has never seen {', '.join(spelt)} and reads it letter by letter"
                    )
        return notes
