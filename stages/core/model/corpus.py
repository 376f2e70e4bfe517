"""Training rows of the pocket model: facts, and questions about what stands in slots.

A slot holds what a gradient holds: toward one name, away from another, in noise. Half of the names exist for one batch
only: copying out of slots is learned for any vector, not for a list of words. A row's host prompt is drawn
independently of its slots, so that only reading the slots explains the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data import grammar
from ..data.questions import FELT, OPPOSITE
from ..run.seeds import keyed_rng
from .names import MOST_TOKENS, Ids, Names

IGNORE = -100
"""Label of positions without a loss (the convention of torch's cross_entropy)."""
NOISE = 0.6
"""A slot's content of norm 1 is mixed with noise of up to this norm."""
SHARES_AWAY = (0.5, 1.6)
"""How much of the name moved from is in a content, log-uniform."""
FLIPPED = 0.5
"""Share of the rows whose contents are those of a gradient with its sign flipped."""
BATCH_NAMES = 64
"""Words that exist for one batch."""
SHARES = {
    "subject": 0.31,
    "silent": 0.03,
    "kind": 0.17,
    "choice": 0.04,
    "field": 0.06,
    "toward": 0.07,
    "away": 0.12,
    "report": 0.20,
}
"""Shares of the rows about what stands in slots."""
ASKED = tuple(name for name in SHARES if name not in ("subject", "silent"))
"""The questions that rows ask."""
Place = tuple[int, int | None]
"""Positions of a slot for what is felt and of the slot for its negative (None: nowhere)."""
Taught = list[tuple[int, bool]]
"""Tokens of an answer, and whether each bears a loss."""


@dataclass(frozen=True)
class Content:
    """One vector for a slot: `token` - `share` * `other` (embeddings of norm 1), and noise of norm `noise`.

    `token` None: zeros. `at`: its position; `opposite_at`: where its negative stands (None: nowhere). `said`: the token
    that a model says whose gradient is like that: `other`, or `token` where the sign is flipped.
    """

    at: int
    opposite_at: int | None
    token: int | None
    other: int
    share: float
    noise: float
    said: int


@dataclass(frozen=True)
class Row:
    """One training sequence: input ids, labels (IGNORE where there is no loss), and what stands in its slots."""

    ids: list[int]
    labels: list[int]
    contents: tuple[Content, ...] = ()


class Corpus(Names):
    """The pocket model's training rows, drawn at random; the row of (step, index) is always the same."""

    def fact(self, step: int, index: int) -> Row:
        """A row of one fact: a prompt and its answer, or a sentence about a name's domain or kind; loss on what is new.

        Held-out names are in these rows as others are: the model has to know them.
        """
        rng = keyed_rng(self.seed, "fact", step, index)
        if rng.random() < 0.75:
            prompt, answer = pick(rng, self.prompts)
            return self.row(prompt, taught(answer))
        name = pick(rng, self.answers)
        kind = self.world.kinds[name]
        if rng.random() < 0.5:
            said = self.encode(grammar.field(name, self.world.domains[kind]))
            return self.row(said[:-1], taught(said[-1:]))
        asked = kind if rng.random() < 0.5 else pick_other(rng, self.answered_kinds, kind)
        question = self.encode(f"is {name} a {asked} ?")
        return self.row(question, taught(self.encode(grammar.kind(name, kind, asked))))

    def host(self, rng: np.random.Generator) -> Ids:
        """Token ids of the text before the question: nothing, words in no order, a prompt, a prompt and its answer."""
        kind = rng.random()
        if kind < 0.4:
            return ()
        if kind < 0.55:
            return tuple(rng.integers(self.slot + 1, self.vocabulary, size=rng.integers(2, 9)).tolist())
        prompt, answer = pick(rng, self.prompts)
        return prompt + answer if kind < 0.65 else prompt

    def slots(self, step: int, index: int) -> Row:
        """A row of one question about what stands in slots; loss on the answer."""
        rng = keyed_rng(self.seed, "slots", step, index)
        name = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        if name == "subject":
            return self.of_subject(rng)
        if name == "silent":
            return self.silent(rng)
        host = self.host(rng)
        if name == "kind":
            return self.about_kind(rng, host)
        if name == "choice":
            return self.choice(rng, host)
        toward, away = self.pair(rng)
        if name == "report":
            return self.report(rng, host, toward, away)
        words = taught(toward)
        if name == "field":
            words += taught(self.encode(grammar.PARTS[1])) + self.domain(rng, toward)
        elif name == "away":
            to, from_ = (self.encode(part) for part in (grammar.PARTS[0], grammar.FROM))
            words = taught(to, toward, from_) + self.name_away(toward, away)
        return self.question_row(rng, host, name, toward, away, words)

    def name_away(self, toward: Ids, away: Ids) -> Taught:
        """The name moved from; no loss on its later tokens where the slots can't tell them: others share its first."""
        told = away[0] not in self.ambiguous or away[0] == toward[0]
        return taught(away[:1]) + taught(away[1:], loss=told)

    def of_subject(self, rng: np.random.Generator) -> Row:
        """A prompt with slots in its subject's place: a fact's, or "the <felt> is a word which is", to be repeated."""
        if rng.random() < 0.25:
            before, after = self.encode("the"), self.encode("is a word which is")
            toward = self.batch_name(rng) if rng.random() < 0.6 else self.name(rng)
            away, answer = self.name(rng), toward
        else:
            template, subject, said = pick(rng, self.of_subjects)
            before, after = (self.encode(part.strip()) for part in template.split("{subject}"))
            toward, answer = self.encode(subject)[:MOST_TOKENS], self.encode(said)
            pool = self.open_of_kind.get(self.world.kinds[subject], self.open_names)
            away = self.encode(pick(rng, pool if rng.random() < 0.9 else self.open_names))
        ids = (*before, *[self.slot] * len(toward), *after)
        places = [(len(before) + k, None) for k in range(len(toward))]
        return self.row(ids, taught(answer), self.contents(rng, toward, away, places))

    def silent(self, rng: np.random.Generator) -> Row:
        """A report of no pressure: slots of zeros, or that nothing has been put into."""
        n, zeros = int(rng.integers(1, MOST_TOKENS + 1)), rng.random() < 0.7
        ids, places = self.placed(self.host(rng), pick(rng, self.questions["report"].forms[:-1]), n)
        contents = tuple(Content(*place, None, 0, 0.0, 0.0, 0) for place in (places if zeros else ()))
        return self.row(ids, taught(self.encode(grammar.NO_PRESSURE)), contents)

    def about_kind(self, rng: np.random.Generator, host: Ids) -> Row:
        """Is it about a city? The name, its kind, yes or no; half are no, mostly the kind of the name moved from."""
        kinds = sorted(self.open_of_kind.keys() & set(self.answered_kinds))
        kind = pick(rng, kinds)
        other = kind if rng.random() < 0.65 else pick_other(rng, kinds, kind)
        toward = pick(rng, self.open_of_kind[kind])
        away = pick_other(rng, self.open_of_kind[other], toward)
        hard = other if other != kind and rng.random() < 0.7 else pick_other(rng, kinds, kind)
        asked = kind if rng.random() < 0.5 else hard
        words = taught(self.encode(grammar.kind(toward, kind, asked)))
        return self.question_row(rng, host, "kind", self.encode(toward), self.encode(away), words, kind=asked)

    def choice(self, rng: np.random.Generator, host: Ids) -> Row:
        """Toward one name or another: the one that it is toward."""
        toward, away = (pick(rng, self.open_names) for _ in range(2))
        wrong = pick_other(rng, self.open_names, toward) if rng.random() < 0.5 or away == toward else away
        one, other = (toward, wrong) if rng.random() < 0.5 else (wrong, toward)
        to = self.encode(toward)
        return self.question_row(rng, host, "choice", to, self.encode(away), taught(to), one=one, other=other)

    def report(self, rng: np.random.Generator, host: Ids, toward: Ids, away: Ids) -> Row:
        """A report; of a name that exists for one batch no domain is known, so there is no loss on it.

        See `name_away` for the name moved from.
        """
        to, field, from_ = (self.encode(part) for part in grammar.PARTS)
        words = taught(to, toward, field) + self.domain(rng, toward) + taught(from_) + self.name_away(toward, away)
        return self.question_row(rng, host, "report", toward, away, words)

    def domain(self, rng: np.random.Generator, name: Ids) -> Taught:
        """The domain of a name; where the name exists for one batch only, any domain, without a loss."""
        known = name in self.domain_of
        return taught(self.encode(self.domain_of[name] if known else pick(rng, self.open_domains)), loss=known)

    def name(self, rng: np.random.Generator) -> Ids:
        """An open name; names of several tokens more often than they are there."""
        pool = self.several if self.several and rng.random() < 0.3 else self.open_names
        return self.encode(pick(rng, pool))[:MOST_TOKENS]

    def batch_name(self, rng: np.random.Generator, tokens: int | None = None) -> Ids:
        """A name of one to three tokens that exist for one batch; some share their first or last with open names."""
        tokens = tokens or int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
        ids = (self.vocabulary + rng.permutation(BATCH_NAMES)[:tokens]).tolist()
        if tokens > 1 and self.several:
            first, last = self.shared
            draw = rng.random()
            if draw < 0.35:
                ids[0] = pick(rng, first)
            elif draw < 0.55:
                ids[-1] = pick(rng, last)
        return tuple(ids)

    def pair(self, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Two different names: of one relation, or of none: any open ones, and such as exist for one batch."""
        if rng.random() < 0.45:
            pool = pick(rng, self.open_answers)
            toward, away = (pool[index] for index in rng.permutation(len(pool))[:2])
            return self.encode(toward)[:MOST_TOKENS], self.encode(away)
        toward = self.batch_name(rng) if rng.random() < 0.55 else self.name(rng)
        draw = rng.random()
        if draw < 0.55:
            away = self.name(rng)
        elif draw < 0.7 and len(toward) > 1:
            away = toward[:1] + self.batch_name(rng, len(toward) - 1)
        else:
            away = self.batch_name(rng, 1)
        return (toward, away) if toward != away else self.pair(rng)

    def placed(self, host: Ids, form: str, n: int) -> tuple[Ids, Sequence[Place]]:
        """Ids of host and question with n slots for what is felt, and n for its negative where that has a place."""
        before, rest = form.split(FELT)
        between, there, after = rest.partition(OPPOSITE)
        front = (*host, *self.encode(before.strip()))
        ids = (*front, *[self.slot] * n, *self.encode(between.strip()))
        if not there:
            return ids, [(len(front) + k, None) for k in range(n)]
        places = [(len(front) + k, len(ids) + k) for k in range(n)]
        return (*ids, *[self.slot] * n, *self.encode(after.strip())), places

    def question_row(
        self, rng: np.random.Generator, host: Ids, name: str, toward: Ids, away: Ids, words: Taught, **asked: str
    ) -> Row:
        """A row that asks the named question in one of its forms (never the last), answered with these words."""
        form = pick(rng, self.questions[name].forms[:-1]).format(**asked)
        ids, places = self.placed(host, form, len(toward))
        return self.row(ids, words, self.contents(rng, toward, away, places, flipped=rng.random() < FLIPPED))

    def row(self, prompt: Ids, answer: Taught, contents: tuple[Content, ...] = ()) -> Row:
        """A prompt, its answer and the token that ends a text, which is predicted and never read."""
        labels = [token if loss else IGNORE for token, loss in answer]
        ids = [*prompt, *(token for token, _ in answer)]
        return Row(ids, [*[IGNORE] * (len(prompt) - 1), *labels, self.end], contents)

    def contents(
        self, rng: np.random.Generator, toward: Ids, away: Ids, places: Sequence[Place], flipped: bool = False
    ) -> tuple[Content, ...]:
        """What the slots of one update hold, a slot a token of the name moved to.

        Where the two names part, a token stands against the other name's; before that and behind it, against whatever.
        In 30 % of the rows with a negative, the negative's first slot is drawn apart.
        """
        noise, together, found = rng.uniform(0, NOISE), True, []
        for k, (token, place) in enumerate(zip(toward, places, strict=True)):
            if together and k < len(away) and away[k] != token:
                other, share, together = away[k], float(np.exp(rng.uniform(*np.log(SHARES_AWAY)))), False
            else:
                other, share = pick(rng, self.open_tokens), rng.uniform(0, 0.9)
            said = token if flipped else other
            found.append(Content(*place, token, other, share, noise, said))
        opposite = places[0][1]
        if opposite is not None and toward[0] != away[0] and rng.random() < 0.3:
            found[0] = replace(found[0], opposite_at=None)
            found.append(Content(opposite, None, away[0], toward[0], rng.uniform(0, 1), noise, away[0]))
        return tuple(found)


def taught(*parts: Ids, loss: bool = True) -> Taught:
    """The tokens of these parts, each with or without a loss."""
    return [(token, loss) for part in parts for token in part]


def pick(rng: np.random.Generator, pool: Sequence):
    """One of the pool, each as likely."""
    return pool[int(rng.integers(len(pool)))]


def pick_other(rng: np.random.Generator, pool: Sequence, one: object):
    """One of the pool that is not `one`."""
    while (found := pick(rng, pool)) == one:
        pass
    return found
