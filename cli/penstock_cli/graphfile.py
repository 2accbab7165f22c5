"""A graph from a file or standard input, or one of ComfyUI's: never more of it is read than a graph may have."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.errors import InvalidInput
from penstock.pipelines.graph import Graph
from penstock.pipelines.plaingraph import MAX_BYTES, from_text, too_large
from penstock_cli import textio


def read(name: str) -> Graph:
    """The graph of a file, of standard input for ``-``; raises ``UsageError``, ``InvalidInput`` or ``TooLarge``."""
    text = _text(name)
    if len(text) > MAX_BYTES:
        raise too_large("more bytes than that" if name == "-" else f"more bytes than that in {name}")
    return from_text(text.removeprefix(textio.MARK)).graph


def read_comfyui(name: str, classes: str) -> Graph:
    """The graph of a ComfyUI workflow, and ``classes``, the file of what its classes of nodes are here; raises as
    ``read``."""
    from penstock.pipelines import comfyui, plaingraph

    models = plaingraph.bounded(_text(classes).removeprefix(textio.MARK), what="file of classes", fix=_CLASSES)
    if not isinstance(models, dict):
        raise InvalidInput("the classes of nodes are an object of them by their names", fix=_CLASSES)
    return comfyui.read(_text(name).removeprefix(textio.MARK), models)


_CLASSES = 'name models for them: {"KSampler": "sample", "SaveImage": {"inputs": "images", "output": true}}'


def _text(name: str) -> bytes:
    if name == "-":
        return textio.stdin().read(MAX_BYTES + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"cannot read {name}: {reason}. (GRAPH is a file, or - for standard input.)") from None
