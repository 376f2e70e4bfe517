"""What a projector learns from without any correction: vectors made of the model's own words, and the words themselves.

No label, gradient or name of the prompts has a part in it: every token of those names is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..data import grammar
from ..data.gathering import BLOCK_ROWS
from ..run.errors import InputError
from ..run.seeds import keyed_rng
from .reader import Reader
from .section import Projector
from .training import Draws
from .vocabulary import Tokens, final_gain

NOISE, SHARES = 1.2, (0.4, 1.0)
"""Most noise, and how much of the other word is taken away: fractions of the word's own norm."""
BLOCKS = 4


class Words:
    """Draws batches: the batch of (split, step) is always the same. A word stands in a slot a token.

    A gradient is the negative of what an update after the last block moves toward: the word's direction in the head,
    times the final norm's gain, minus a share (with `settings.flips` one over that share) of another's, in noise of any
    direction. All layers get the same. The report is its beginning alone, up to the word.
    """

    def __init__(
        self,
        reader: Reader,
        names: Iterable[str],
        hosts: Mapping[str, Sequence[str] | pl.Series],
        settings: Projector,
        seed: int,
    ) -> None:
        """`names`: names none of whose tokens is taught. `hosts`: prompts by domain, to stand in front.

        Raises:
            InputError: less than two tokens of letters are left.
        """
        self.decoder, self.card, self.settings, self.seed = reader.decoder, reader.card, settings, seed
        self.hosts, self.directions = list(hosts.values()), Tokens(reader.decoder, output=True)
        self.gain = final_gain(reader.decoder)
        closed = {token for name in names for token in reader.decoder.continuation(name)}
        left = [token for token in range(len(self.directions)) if token not in closed]
        self.tokens = [token for token in left if self.text([token]).isalpha()]
        if len(self.tokens) < 2:
            raise InputError(
                f"params.yaml: projector.learns_from: found {len(self.tokens)} words of the model's vocabulary that "
                "share no token with a name of the prompts, wanted 2 or more: use labels"
            )

    def text(self, ids: Sequence[int]) -> str:
        """What these tokens say."""
        tokenizer = self.decoder.tokenizer
        assert tokenizer is not None
        return str(tokenizer.decode(list(ids))).strip()

    def blocks(self) -> Iterator[Float[Tensor, "_ vector d_model"]]:
        """Some gradients, for whitening and gate."""
        return (self.draw("blocks", step, BLOCK_ROWS, 0).gradients for step in range(BLOCKS))

    def forget(self) -> None:
        """Nothing is kept."""

    def draw(self, split: str, step: int, size: int, reported: int) -> Draws:
        """A batch of `size` rows."""
        rng, places = keyed_rng(self.seed, "words", split, step), len(self.card.places)
        gradients, reports, hosts, names = torch.zeros(size, places, self.card.d_model), [], [], []
        for row in range(size):
            drawn = self.decoder.continuation(self.text(self.some(rng, int(rng.integers(1, places + 1)))))[:places]
            others, share = self.some(rng, len(drawn)), rng.uniform(*SHARES)
            share = 1 / share if rng.random() < self.settings.flips else share
            noise = F.normalize(torch.from_numpy(rng.standard_normal((len(drawn), self.card.d_model), np.float32)))
            felt = self.moved(drawn) - share * self.moved(others) + rng.uniform(0, NOISE) * noise
            gradients[row, : len(drawn)] = -felt
            reports.append(f"{grammar.PARTS[0]} {self.text(drawn)}")
            names.append((self.text(drawn), self.text(others)))
            pool = self.hosts[int(rng.integers(len(self.hosts)))]
            hosts.append(None if rng.random() < 0.1 else pool[int(rng.integers(len(pool)))])
        return Draws(gradients.repeat_interleave(len(self.card.layers), 1), reports, hosts, names, whole=False)

    def some(self, rng: np.random.Generator, count: int) -> list[int]:
        """So many of the tokens."""
        return [self.tokens[at] for at in rng.integers(len(self.tokens), size=count)]

    def moved(self, ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
        """The unit vectors that raise these tokens' logits most after the last block."""
        return F.normalize(self.directions[torch.tensor(ids, device=self.decoder.device)] * self.gain, dim=-1).cpu()
