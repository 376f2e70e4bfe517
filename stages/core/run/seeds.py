"""Randomness keyed on (seed, identity), so that order, batch size and number of workers change nothing.

A draw for a row is made from a generator that is seeded by a hash of the seed and of what identifies the row; no
generator is shared between rows.
"""

import hashlib

import numpy as np


def digest(*parts: str | int | float) -> str:
    """Hex SHA-256 of the parts, each preceded by its length so that ("ab", "c") differs from ("a", "bc")."""
    hasher = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        hasher.update(f"{len(text)}:".encode() + text)
    return hasher.hexdigest()


def keyed_int(seed: int, *identity: str | int) -> int:
    """An integer in [0, 2**63), the same for the same seed and identity on every machine."""
    return int(digest(seed, *identity)[:16], 16) >> 1


def keyed_fraction(seed: int, *identity: str | int) -> float:
    """A number in [0, 1), uniform over identities: `keyed_fraction(...) < share` picks a stable share of them."""
    return keyed_int(seed, *identity) / 2**63


def keyed_rng(seed: int, *identity: str | int) -> np.random.Generator:
    """A generator of its own for one identity."""
    return np.random.default_rng(keyed_int(seed, *identity))
