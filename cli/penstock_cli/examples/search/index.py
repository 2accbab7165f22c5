"""The nearest passages to a question, by cosine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock_cli.examples.search.corpus import Passage

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

_VECTORS, _PASSAGES = "vectors.npy", "passages.json"


class Index:
    """Unit vectors of passages, filled as they arrive; safe for one writer and many readers.

    With a folder, which must be there, they are in a file of it, and so are the passages: other processes of this
    machine ``read`` it and see what is put into it, at once.
    """

    def __init__(self, passages: Sequence[Passage], folder: Path | None = None, *, width: int = 384) -> None:
        import numpy as np

        self.passages = list(passages)
        self.vectors: NDArray[np.float32]
        if folder is None:
            self.vectors = np.zeros((len(passages), width), np.float32)
            return
        self.vectors = np.lib.format.open_memmap(
            folder / _VECTORS, mode="w+", dtype=np.float32, shape=(len(passages), width)
        )
        texts = [(passage.topic, passage.text) for passage in passages]
        (folder / _PASSAGES).write_text(json.dumps(texts), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The index of a folder, to be read."""
        import numpy as np

        found = cls.__new__(cls)
        texts = json.loads((folder / _PASSAGES).read_text(encoding="utf-8"))
        found.passages = [Passage(topic, text) for topic, text in texts]
        found.vectors = np.load(folder / _VECTORS, mmap_mode="r")
        return found

    def put(self, place: int, vector: Sequence[float]) -> None:
        """Store the vector of one passage."""
        self.vectors[place] = vector

    def has(self, place: int) -> bool:
        """Whether the vector of this passage is there."""
        return bool(self.vectors[place].any())

    def nearest(self, vector: Sequence[float], count: int = 1) -> list[tuple[int, float]]:
        """The ``count`` nearest places with their cosines, best first. Empty places score 0."""
        import numpy as np

        scores = self.vectors @ np.asarray(vector, np.float32)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(int(place), float(scores[place])) for place in best]
