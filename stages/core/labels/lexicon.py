"""A lexicon of entities: which entity a text names, and of which entities a token is a piece.

Names are compared as words without case and punctuation, because tokenizers space punctuation differently. Tokens may
be pieces of words or of names of several words, so they are compared with names written without spaces.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from ..data.facts import Domain

_WORD = re.compile(r"\w+")
SURE = 3  # letters at least of a name's beginning that stands for the name


def words(text: str) -> tuple[str, ...]:
    """The text's case-folded words; a text of punctuation only is kept as it is, to stay comparable."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_WORD.findall(folded)) or tuple(folded.split())


def padded(text: str) -> str:
    """The text's words, each between two spaces: a name stands in it only as whole words."""
    return f" {' '.join(words(text))} "


def holds(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text`, one after the other."""
    inside, sought = words(text), words(part)
    return any(inside[at : at + len(sought)] == sought for at in range(len(inside) - len(sought) + 1))


class Lexicon:
    """The entities of some domains, and each entity's domains."""

    def __init__(self, domains: Iterable[Domain]) -> None:
        self.domains: dict[str, frozenset[str]] = {}
        for domain in domains:
            for entity in domain.entities:
                self.domains[entity] = self.domains.get(entity, frozenset()) | {domain.domain}
        self._named: dict[tuple[str, ...], list[str]] = {}
        for entity in self.domains:
            self._named.setdefault(words(entity), []).append(entity)
        self._pieces: dict[str, dict[str, float]] = {}
        for name, entities in self._named.items():
            whole = "".join(name)
            for start in reversed(range(len(name))):  # the name's own beginning last: there a piece counts whole
                rest = "".join(name[start:])
                for length in range(1, len(rest) + 1):
                    share = length / len(whole) * (0.5 if start else 1.0)
                    self._pieces.setdefault(rest[:length], {}).update(dict.fromkeys(entities, share))

    def named(self, text: str) -> str:
        """The entity that `text` names first, the longest of those that begin there; "" when it names none.

        A text that ends inside a name (a continuation is cut after a few tokens) names the entity when the text is
        nothing but the beginning of that one name.
        """
        said = words(text)
        for start in range(len(said)):
            for length in range(len(said) - start, 0, -1):
                if entities := self._named.get(said[start : start + length]):
                    # Names that differ in case or punctuation only ("Co", "CO"): the one that stands there literally.
                    return next((entity for entity in entities if entity in text), entities[0])
        beginning = " ".join(said)
        begun = [name for name in self._named if " ".join(name).startswith(beginning)]
        return self._named[begun[0]][0] if len(begun) == 1 and len("".join(said)) >= SURE else ""

    def spelt(self, name: str) -> str:
        """The entity of this name in the lexicon's spelling, or `name` as it stands when there is none."""
        entities = self._named.get(words(name), [])
        return name if not entities or name in entities else entities[0]

    def match(self, tokens: Iterable[str], shifts: Sequence[float]) -> dict[str, float]:
        """Entities scored by the sum, over tokens that are a piece of the name, of the token's shift, as a fraction of
        the largest, times the share of the name's letters.

        A piece begins a word of the name. Only the first token of an answer shifts directly, so a piece that does not
        begin the name counts half.
        """
        largest = max((abs(shift) for shift in shifts), default=0.0)
        scores: dict[str, float] = {}
        for token, shift in zip(tokens, shifts, strict=True):
            weight = abs(shift) / largest if largest else 0.0
            for entity, share in self._pieces.get("".join(words(token)), {}).items():
                scores[entity] = scores.get(entity, 0.0) + weight * share
        return scores


def best(scores: dict[str, float], without: str = "") -> str:
    """The entity with the highest score, the first by name of equal ones; "" when there is none."""
    scores = {entity: score for entity, score in scores.items() if entity != without and score > 0}
    return min(scores, key=lambda entity: (-scores[entity], entity), default="")
