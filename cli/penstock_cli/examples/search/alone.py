"""The demo's model once more, one text at a time: what batching is compared with."""

from __future__ import annotations

from penstock import Batching
from penstock_cli.examples.search.model import Embed


class EmbedAlone(Embed):
    """The same network, without batching."""

    name = "embed-alone"
    batching = Batching(max_size=1)
