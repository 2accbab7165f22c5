"""The demo checks itself: the same vectors and answers, computed directly, one by one, with no queue in between."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.testing import run_pipeline
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.model import Embed
from penstock_cli.examples.search.pipeline import CANDIDATES, answer, by_meaning, by_words, rerank
from penstock_cli.examples.search.traffic import Answer

#: A batch is padded to its longest text, which reorders float32 sums: about 2e-7 was seen on CPUs.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How far the queue's vectors are from the direct ones, and how many questions found the same passage."""

    max_abs_diff: float
    agreeing: int
    questions: int

    @property
    def passed(self) -> bool:
        """Whether the two are the same within the tolerance."""
        return self.max_abs_diff <= TOLERANCE and self.agreeing == self.questions > 0


def check(
    queued: Index,
    answers: Sequence[Answer],
    vectors: Mapping[str, Sequence[float]],
    *,
    alone: Mapping[int, Sequence[float]] | None = None,
    device: str = "cpu",
) -> Check:
    """Compare all vectors, and the passage that each question's run found in the complete index with the best one of
    the same pipeline in this process.

    ``vectors`` are those that the runs computed, by question; ``alone`` those of some passages, by place, as the queue
    delivered them of the model without batches.
    """
    import numpy as np

    model = Embed()
    model.load(device)
    with tempfile.TemporaryDirectory(prefix="penstock-check-") as folder:
        direct = Index(queued.passages, Path(folder))
        for place, passage in enumerate(direct.passages):
            direct.put(place, model.predict([passage.text])[0])
        differences = [float(np.abs(direct.vectors - queued.vectors).max())]
        agreeing = sum(_agrees(each, _best(each.question, folder, model)) for each in answers)
    for question, vector in vectors.items():
        differences.append(float(np.abs(np.subtract(vector, model.predict([question])[0])).max()))
    for place, single in (alone or {}).items():
        differences.append(float(np.abs(np.subtract(single, direct.vectors[place])).max()))
    # What is no number differs from everything, and `max` alone would not see it.
    worst = max(differences) if np.isfinite(differences).all() else float("inf")
    return Check(max_abs_diff=worst, agreeing=agreeing, questions=len(answers))


def _best(question: str, folder: str, model: Embed) -> dict[int, float]:
    """By place, the score of what the pipeline finds without a queue."""
    given = {"question": question, "index": folder, "count": CANDIDATES}
    found = run_pipeline(answer, given, models=[model, by_meaning, by_words, rerank])
    return {each["place"]: each["score"] for each in found}


def _agrees(theirs: Answer, ours: Mapping[int, float]) -> bool:
    """Two passages can be equally good: then either may come first."""
    if not theirs.found:
        return False
    place, score = theirs.found[0]["place"], theirs.found[0]["score"]
    return place in ours and max(abs(ours[place] - score), max(ours.values()) - score) <= TOLERANCE
