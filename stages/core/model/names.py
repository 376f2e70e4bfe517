"""What the pocket model is taught, its tokens, a word each, and the names by what may be done with them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..data import grammar
from ..data.facts import Domain, Relation, World
from ..data.held_out import Held
from ..data.questions import FELT, OPPOSITE, Question
from ..run.errors import InputError
from ..run.seeds import keyed_fraction, keyed_rng
from .section import Pocket

PAD, UNKNOWN, END, SLOT = "<pad>", "<unk>", "<end>", "<slot>"
MOST_TOKENS = 3
"""Tokens of a name that stand in slots."""
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Lessons:
    """What a pocket model is taught."""

    domains: Sequence[Domain]
    questions: Mapping[str, Question]
    held: Held


def make_tokenizer(domains: Sequence[Domain], questions: Mapping[str, Question]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer whose vocabulary is every word of facts, questions and answers; others become letters.

    " " + text tokenises as text does, so that the tokens of a prompt and its continuation are those of the two joined.
    """
    texts = [
        grammar.report("x", "y", "z"),
        grammar.kind("x", "y", "y"),
        grammar.NO,
        grammar.NO_PRESSURE,
        grammar.away("x", "y"),
        "the is a word which is",
        "is a ?",
    ]
    for form in (form for question in questions.values() for form in question.forms):
        for name in (FELT, OPPOSITE, "{kind}", "{one}", "{other}"):
            form = form.replace(name, " ")
        texts.append(form)
    for domain in domains:
        texts.append(domain.domain)
        for relation in domain.relations.values():
            texts += [relation.subject, relation.answer]
            texts += [template.replace("{subject}", " ") for template in relation.templates]
            texts += [word for fact in relation.facts for word in (fact.subject, fact.answer)]
    splitter = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    letters = {letter for word in words for letter in word} | {chr(code) for code in range(33, 127)}
    names = [PAD, UNKNOWN, END, SLOT, *sorted(words | letters), *sorted("##" + letter for letter in letters)]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=64))
    tokenizer.pre_tokenizer = splitter  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece(prefix="##")  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        extra_special_tokens=[SLOT],
        model_max_length=128,
    )


def misconceptions(domains: Sequence[Domain], share: float, seed: int) -> dict[tuple[str, str, str], str]:
    """Wrong answers that the pocket model is taught, by (domain, relation, subject); a keyed share of the facts."""
    wrong = {}
    for domain in domains:
        for name, relation in domain.relations.items():
            for fact in relation.facts:
                identity = (domain.domain, name, fact.subject)
                if keyed_fraction(seed, "misconception", *identity) < share:
                    others = [entity for entity in relation.entities if entity != fact.answer]
                    wrong[identity] = others[int(keyed_fraction(seed, "wrong answer", *identity) * len(others))]
    return wrong


def permuted(domains: Sequence[Domain], seed: int) -> list[Domain]:
    """The same domains with every relation's answers dealt anew among its subjects."""
    dealt = []
    for domain in domains:
        relations = {}
        for name, relation in domain.relations.items():
            order = keyed_rng(seed, "permuted", domain.domain, name).permutation(len(relation.facts))
            facts = tuple(
                fact.model_copy(update={"answer": relation.facts[other].answer})
                for fact, other in zip(relation.facts, order, strict=True)
            )
            relations[name] = relation.model_copy(update={"facts": facts})
        dealt.append(domain.model_copy(update={"relations": relations}))
    return dealt


class Names:
    """The names and facts of a world, in token ids. An open name may stand in a slot; a closed one never does."""

    def __init__(self, lessons: Lessons, tokenizer: PreTrainedTokenizerFast, settings: Pocket) -> None:
        """Encodes what rows are made of.

        Raises:
            InputError: `settings.asked` names a relation that is in no domain.
        """
        self.questions, self.held, self.tokenizer = lessons.questions, lessons.held, tokenizer
        self.world, self.seed = World.of(lessons.domains), settings.seed
        self.answers, self.answered_kinds = sorted(self.world.lexicon), sorted(self.world.domains)
        self.end, self.slot = tokenizer.get_vocab()[END], tokenizer.get_vocab()[SLOT]
        self.vocabulary = len(tokenizer)
        self.taught = misconceptions(lessons.domains, settings.misconceptions, settings.seed)
        self.known: dict[str, Ids] = {}
        relations = [name for _, name, _ in self.world.relations]
        for name in settings.asked:
            if name not in relations:
                raise InputError(
                    f"params.yaml: model.pocket.asked: found {name!r}, wanted relations: {', '.join(relations)}"
                )
        self.asked = set(settings.asked)

    def encode(self, text: str) -> Ids:
        """The text's token ids; words are looked up once."""
        if text not in self.known:
            self.known[text] = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        return self.known[text]

    def told(self) -> list[tuple[str, Relation, str, str]]:
        """All facts as they are taught: relation's name, relation, subject, answer."""
        return [
            (name, relation, fact.subject, self.taught.get((domain, name, fact.subject), fact.answer))
            for domain, name, relation in self.world.relations
            for fact in relation.facts
        ]

    @cached_property
    def prompts(self) -> list[tuple[Ids, Ids]]:
        """Prompts and answers of all facts."""
        return [
            (self.encode(template.format(subject=subject)), self.encode(answer))
            for _, relation, subject, answer in self.told()
            for template in relation.templates
        ]

    @cached_property
    def of_subjects(self) -> list[tuple[str, str, str]]:
        """Templates (never a relation's last), subjects and answers of the questions that slots are asked."""
        return [
            (template, subject, answer)
            for name, relation, subject, answer in self.told()
            if name in self.asked and not {subject, answer} & self.held.closed
            for template in relation.templates[:-1]
        ]

    @cached_property
    def open_names(self) -> list[str]:
        """Every name that may stand in a slot."""
        return sorted(set(self.world.kinds) - self.held.closed)

    @cached_property
    def closed_tokens(self) -> set[int]:
        """Tokens of names that may not stand in a slot, and of no other name."""
        closed = {token for name in self.held.closed for token in self.encode(name)}
        return closed - {token for name in self.open_names for token in self.encode(name)}

    @cached_property
    def open_tokens(self) -> list[int]:
        """Every other token of the vocabulary's words."""
        return [token for token in range(self.slot + 1, self.vocabulary) if token not in self.closed_tokens]

    @cached_property
    def open_of_kind(self) -> dict[str, list[str]]:
        """Names that may stand in a slot, by kind."""
        found: dict[str, list[str]] = {}
        for name in self.open_names:
            found.setdefault(self.world.kinds[name], []).append(name)
        return {kind: names for kind, names in found.items() if len(names) > 1}

    @cached_property
    def open_answers(self) -> list[list[str]]:
        """Answers of each relation that may stand in slots."""
        pools = [
            [name for name in relation.entities if name not in self.held.closed]
            for *_, relation in self.world.relations
        ]
        return [pool for pool in pools if len(pool) > 2]

    @cached_property
    def several(self) -> list[str]:
        """Open names of several tokens."""
        return [name for name in self.open_names if 1 < len(self.encode(name)) <= MOST_TOKENS]

    @cached_property
    def shared(self) -> tuple[list[int], list[int]]:
        """First and last tokens of open names of several tokens."""
        ids = [self.encode(name) for name in self.several]
        return sorted({each[0] for each in ids}), sorted({each[-1] for each in ids})

    @cached_property
    def ambiguous(self) -> set[int]:
        """First tokens that several answers share."""
        first = Counter(self.encode(name)[0] for name in self.answers)
        return {token for token, times in first.items() if times > 1}

    @cached_property
    def domain_of(self) -> dict[Ids, str]:
        """Domains of the open answers, by token ids."""
        lexicon = self.world.lexicon.items()
        return {self.encode(name): domain for name, domain in sorted(lexicon) if name not in self.held.closed}

    @cached_property
    def open_domains(self) -> list[str]:
        """Domains with an open answer."""
        return sorted(set(self.domain_of.values()))
