"""Names of places: what is none is refused, as params."""

import pytest
from pydantic import ValidationError

from stages.core.data.places import checked, target_token
from stages.core.engine.section import Gradients


def test_places_are_tokens_of_the_target_and_the_subject():
    names = ["subject", "target_1", "target_12"]
    assert checked(names) == names and target_token("target_12") == 12


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([], "wanted target_1 among them"),
        (["target_2", "subject"], "wanted target_1 among them"),
        (["target_1", "target_1"], "none twice"),
        (["target_1", "target_0"], "found 'target_0', wanted target_1, target_2"),
        (["target_1", "last"], "found 'last', wanted target_1, target_2, ... or subject"),
    ],
)
def test_other_places_are_refused(places: list[str], message: str):
    with pytest.raises(ValidationError, match=message):
        Gradients(layers=[0], places=places, keep_bits=10)
