"""The pocket model's tokenizer: a token a word."""

from collections.abc import Mapping, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..data import grammar
from ..data.facts import Domain
from ..data.questions import FELT, OPPOSITE, Question

PAD, UNKNOWN, END, SLOT = "<pad>", "<unk>", "<end>", "<slot>"


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
    tokenizer = Tokenizer(
        models.WordPiece(
            {name: index for index, name in enumerate(names)}, unk_token=UNKNOWN, max_input_chars_per_word=64
        )
    )
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
