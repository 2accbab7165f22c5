"""How the demo answers a question: ``penstock up penstock_cli.examples.search.pipeline``, then ``answer`` is run.

What a question means is looked up by a model's vector of it, what it says by its words, at the same time, and a passage
that has both comes first. The functions run in a worker of their own, which has no torch in it: beside ``embed`` each
of them would wait for the batch of passages that is on the device.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import penstock
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.model import Embed
from penstock_cli.examples.search.words import Words

#: A place in the index, and a score.
Scored = tuple[int, float]

#: How many passages each of the two ways may find, and what words count beside meaning.
CANDIDATES, WORDS_SHARE = 16, 0.2


@penstock.step
def by_meaning(vector: list[float], index: str) -> list[Scored]:
    """The passages nearest to a vector, by cosine, of those that are embedded by now."""
    return [(place, score) for place, score in _opened(index)[0].nearest(vector, CANDIDATES) if score > 0]


@penstock.step
def by_words(question: str, index: str) -> list[Scored]:
    """The passages with the question's words, of those that are embedded by now."""
    passages, words = _opened(index)
    scores = words.scores(question)
    best = sorted((place for place in scores if passages.has(place)), key=lambda place: -scores[place])
    return [(place, scores[place]) for place in best[:CANDIDATES]]


@penstock.step
def rerank(meaning: list[Scored], words: list[Scored], index: str, count: int) -> list[dict[str, Any]]:
    """The best of both, with their texts; none where there is none yet."""
    scores = {place: (1 - WORDS_SHARE) * score for place, score in meaning}
    for place, score in words:
        scores[place] = scores.get(place, 0.0) + WORDS_SHARE * score
    passages = _opened(index)[0].passages
    best = sorted(scores, key=lambda place: -scores[place])[:count]
    return [
        {"place": place, "score": scores[place], "topic": passages[place].topic, "text": passages[place].text}
        for place in best
    ]


@penstock.pipeline
def answer(question: str, index: str, count: int = 1) -> Any:
    """The passages that answer a question, best first. ``index`` is the folder of an ``Index``."""
    meaning = by_meaning(vector=Embed(question), index=index)
    return rerank(meaning=meaning, words=by_words(question=question, index=index), index=index, count=count)


def _opened(folder: str) -> tuple[Index, Words]:
    return _open(folder, (Path(folder) / "passages.json").stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _open(folder: str, _written_at: int) -> tuple[Index, Words]:
    index = Index.read(Path(folder))
    return index, Words([passage.text for passage in index.passages])
