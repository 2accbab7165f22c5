"""The passages that have a question's words, by BM25: it finds names that sentence embeddings do not know.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

#: BM25's own: how soon more of one word says no more, and how far longer passages are held to their length.
_K, _B = 1.2, 0.75


class Words:
    """Which passages have which words."""

    def __init__(self, texts: Sequence[str]) -> None:
        split = [words(text) for text in texts]
        mean = sum(map(len, split)) / max(1, len(split))
        self._weights: defaultdict[str, dict[int, float]] = defaultdict(dict)
        for place, found in enumerate(split):
            norm = _K * (1 - _B + _B * len(found) / mean)
            for word, count in Counter(found).items():
                self._weights[word][place] = count * (_K + 1) / (count + norm)
        self._size = len(split)

    def scores(self, question: str) -> dict[int, float]:
        """The score of each place that has a word of the question: 1 would have all of them, once each, at length."""
        total: defaultdict[int, float] = defaultdict(float)
        most = 0.0
        for word in sorted(set(words(question))):
            places = self._weights.get(word, {})
            rarity = math.log(1 + (self._size - len(places) + 0.5) / (len(places) + 0.5))
            most += rarity
            for place, weight in places.items():
                total[place] += rarity * weight
        return {place: score / most for place, score in total.items()}


def words(text: str) -> list[str]:
    """The words of a text, in lower case; an operator, such as ``==``, is one."""
    return re.findall(r"\w+|[-+*/%@=<>!&|^~]+", text.lower())
