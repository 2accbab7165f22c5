"""PURE: how popular models are, and how somebody deals them out to workers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence


def zipf(count: int, s: float = 1.0) -> list[float]:
    """The shares of ``count`` things whose popularity falls as ``1 / rank**s``; they sum to 1."""
    weights = [1 / rank**s for rank in range(1, count + 1)]
    return [weight / sum(weights) for weight in weights]


def popularity(names: Sequence[str], s: float = 1.0) -> dict[str, float]:
    """Each model's share of the requests. The most popular is not the first: neither names nor order may tell."""
    shares = dict(zip(random.Random("popularity").sample(list(names), len(names)), zipf(len(names), s), strict=True))
    return {name: shares[name] for name in names}


def by_number(names: Sequence[str], workers: int, seed: int) -> list[list[str]]:
    """The models dealt out like cards, in an order that the seed shuffles: as many to each worker, or one more."""
    order = random.Random(f"deal:{seed}").sample(list(names), len(names))
    return [order[worker::workers] for worker in range(workers)]


def by_popularity(shares: Mapping[str, float], workers: int) -> list[list[str]]:
    """Whoever is asked for most first, each to the worker that has least to do so far."""
    parts: list[list[str]] = [[] for _ in range(workers)]
    for name in sorted(shares, key=lambda name: (-shares[name], name)):
        min(parts, key=lambda part: sum(shares[mine] for mine in part)).append(name)
    return parts
