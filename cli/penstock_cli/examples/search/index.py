"""The nearest passages to a question, by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Index:
    """Unit vectors of passages, filled as they arrive; safe for one writer and many readers."""

    def __init__(self, size: int, width: int = 384) -> None:
        import numpy as np

        self.vectors: NDArray[np.float32] = np.zeros((size, width), np.float32)

    def put(self, place: int, vector: Sequence[float]) -> None:
        """Store the vector of one passage."""
        self.vectors[place] = vector

    def nearest(self, vector: Sequence[float], count: int = 1) -> list[tuple[int, float]]:
        """The ``count`` nearest places with their cosines, best first. Empty places score 0."""
        import numpy as np

        scores = self.vectors @ np.asarray(vector, np.float32)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(int(place), float(scores[place])) for place in best]
