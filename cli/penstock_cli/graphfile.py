"""A graph from a file or standard input: never more of it is read than a graph may have."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.pipelines.graph import Graph
from penstock.pipelines.plaingraph import MAX_BYTES, from_text, too_large
from penstock_cli import textio


def read(name: str) -> Graph:
    """The graph of a file, of standard input for ``-``; raises ``UsageError``, ``InvalidInput`` or ``TooLarge``."""
    text = _text(name)
    if len(text) > MAX_BYTES:
        raise too_large("more bytes than that" if name == "-" else f"more bytes than that in {name}")
    return from_text(text.removeprefix(textio.MARK)).graph


def _text(name: str) -> bytes:
    if name == "-":
        return textio.stdin().read(MAX_BYTES + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"cannot read {name}: {reason}. (GRAPH is a file, or - for standard input.)") from None
