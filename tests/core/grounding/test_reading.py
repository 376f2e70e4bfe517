"""The model's reading of a text: its head points at words by the part that they play, also at words never seen."""

import numpy as np
import torch

from stages.core.data.grammar import Report
from stages.core.grounding.features import reconstructed, shares, words
from stages.core.grounding.reading import KNOWN_BY, QUERIES, learned, reading
from stages.core.model.decoder import Decoder
from stages.core.reader.vocabulary import Tokens

NAMES = ("Oslo", "Lima", "Paris", "Rome", "Verdi", "Bizet", "Tosca", "Peru", "Chile")
FORMS = ("toward {} , away from {}", "away from {1} , toward {0}")


def said(decoder: Decoder, unseen: bool) -> tuple[list[list[str]], np.ndarray]:
    """Sentences about pairs of names in both forms, and updates between the names; `unseen`: of the last three."""
    names = NAMES[-3:] if unseen else NAMES[:-3]
    pairs = [(to, away) for to in names for away in names if to != away] * (1 if unseen else 4)
    vectors = words(Tokens(decoder, output=True), [Report(moved_to=to, moved_from=away) for to, away in pairs])
    updates = vectors[:, 0] - 0.5 * vectors[:, -1]
    return [[form.format(*pair) for pair in pairs] for form in FORMS], updates


def test_a_head_points_at_the_names_of_a_sentence_also_at_those_that_it_never_saw(trained_decoder: Decoder):
    tokens, layer = Tokens(trained_decoder, output=True), trained_decoder.n_layers // 2
    forms, updates = said(trained_decoder, unseen=False)
    queries, other = learned(tokens, forms, updates, layer, [0, 1])
    assert torch.equal(queries, learned(tokens, forms, updates, layer, [0])[0]) and len(queries) == QUERIES
    assert not torch.equal(queries, other)
    others, wanted = said(trained_decoder, unseen=True)
    texts = {"train": forms[0], "validation": forms[1]} | dict(zip(("one", "other"), others, strict=True))
    texts["empty"] = [""] * len(wanted)
    (vectors,) = reading(tokens, texts, layer, [queries])
    found = reconstructed(vectors, {"train": updates, "validation": updates})
    assert shares(found["one"], wanted).mean() > 0.5
    assert np.allclose(found["empty"], updates.mean(0), atol=1e-5)
    assert shares(found["one"][::-1], wanted).mean() < shares(found["one"], wanted).mean() - 0.3


def test_a_reading_does_not_hang_on_what_is_read_beside_it(small_decoder: Decoder):
    tokens, queries = Tokens(small_decoder, output=True), torch.randn(QUERIES, KNOWN_BY * small_decoder.d_model)
    texts = ["toward Oslo , away from Lima", "", "Oslo", "toward Lima , away from Oslo", "Oslo"]
    found = reading(tokens, {"all": texts}, 1, [queries])[0]["all"]
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2, 3, 4]]).all()
    assert np.array_equal(found[2], found[4])
    oslo = tokens[small_decoder.continuation("Oslo")[0]].numpy()
    assert np.allclose(found[2], oslo, atol=1e-5)  # of one token there is nothing to choose
    for row in (0, 2, 3):
        assert np.allclose(reading(tokens, {"one": [texts[row]]}, 1, [queries])[0]["one"][0], found[row], atol=1e-5)
