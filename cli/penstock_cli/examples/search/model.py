"""The model that the demo serves: ``penstock up penstock_cli.examples.search.model``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock import Batching, TorchModel

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Words, and each sign by itself: about what the tokenizer makes of a text, at a fraction of its cost.
_WORDS = re.compile(r"\w+|[^\w\s]")


class Embed(TorchModel):
    """Sentence embeddings by all-MiniLM-L6-v2: 384 numbers of unit length."""

    name = "embed"
    version = "minilm-l6-v2"
    # A batch is padded to its longest text: texts of about as many tokens share one. How large it really is, is decided
    # by what waits: large ones in a burst, small ones beside questions, which a batch on the device would keep waiting.
    batching = Batching(max_size=32, key=lambda text: str(len(_WORDS.findall(text)) // 4))

    def load(self, device: str) -> None:
        import torch

        if device == "cpu":
            # The queue, the database and the client need a core, too. Threads that find theirs taken spin, and then
            # two are slower than one.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        super().load(device)

    def build(self) -> nn.Module:
        from penstock_cli.examples.search.minilm import MiniLM, folder

        return MiniLM(folder())

    def example(self) -> str:
        return "How do I catch an exception?"

    def collate(self, batch: Sequence[str]) -> tuple[Tensor, Tensor]:
        import torch

        from penstock_cli.examples.search.minilm import tokenizer

        rows = tokenizer().encode_batch(list(batch))
        return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])

    def split(self, output: Tensor, size: int) -> list[list[float]]:
        # Seven decimals are what float32 holds at this scale; more digits would only make the results longer.
        rows: list[list[float]] = output.double().cpu().round(decimals=7).tolist()
        return rows

    def predict(self, batch: list[str]) -> Sequence[list[float]]:
        return super().predict(batch)
