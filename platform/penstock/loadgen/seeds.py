"""Randomness from a seed: the same seed and name give the same numbers, on every machine and in every process."""

from __future__ import annotations

from collections.abc import Callable
from random import Random


def seeded(seed: int) -> Callable[[str], Random]:
    """``rng(name)``: a fresh source for each call, a function of the seed and the name."""
    return lambda name: Random(f"{seed}:{name}")
