"""The demo checks itself: the same vectors, computed directly, one text at a time, with no queue in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock_cli.examples.search.corpus import QUESTIONS, Passage
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.model import Embed
from penstock_cli.examples.search.traffic import Answer

#: A batch is padded to its longest text, which reorders float32 sums: about 2e-7 was seen on CPUs.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How far the queue's vectors are from the direct ones, and how many questions found the same best passage."""

    max_abs_diff: float
    agreeing: int
    questions: int

    @property
    def passed(self) -> bool:
        """Whether the two are the same within the tolerance."""
        return self.max_abs_diff <= TOLERANCE and self.agreeing == self.questions > 0


def check(
    passages: Sequence[Passage],
    queued: Index,
    answers: Sequence[Answer],
    *,
    alone: Mapping[int, Sequence[float]] | None = None,
    device: str = "cpu",
) -> Check:
    """Compare all vectors and, over the complete index, every question's best passage.

    ``alone`` are the vectors of some passages, by place, as the queue delivered them of the model without batches.
    """
    import numpy as np

    model = Embed()
    model.load(device)
    direct = Index(len(passages))
    for place, passage in enumerate(passages):
        direct.put(place, model.predict([passage.text])[0])
    asked = {answer.question: answer.vector for answer in answers}
    own = {question: model.predict([question])[0] for question in QUESTIONS if question in asked}
    differences = [float(np.abs(direct.vectors - queued.vectors).max())]
    agreeing = 0
    for question, vector in own.items():
        differences.append(float(np.abs(np.subtract(vector, asked[question])).max()))
        (theirs, _), (best, score) = queued.nearest(asked[question])[0], direct.nearest(vector)[0]
        # Two passages can be equally good: then either may come first.
        agreeing += theirs == best or float(direct.vectors[theirs] @ np.asarray(vector)) >= score - TOLERANCE
    for place, single in (alone or {}).items():
        differences.append(float(np.abs(np.subtract(single, direct.vectors[place])).max()))
    # What is no number differs from everything, and `max` alone would not see it.
    worst = max(differences) if np.isfinite(differences).all() else float("inf")
    return Check(max_abs_diff=worst, agreeing=agreeing, questions=len(own))
