"""Celery's signatures as what they are, dicts: their kinds, members and links, read without Celery. PURE.

``Signature`` is a subclass of ``dict``, so a canvas in a program's hands and one that came as JSON are read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from penstock.arguments import shown
from penstock.errors import InvalidInput

#: Celery's own tasks, which a program means when it writes a canvas.
CHAIN, GROUP, CHORD, MAP, STARMAP, CHUNKS = (
    f"celery.{kind}" for kind in ("chain", "group", "chord", "map", "starmap", "chunks")
)
COMPOSED = (CHAIN, GROUP, CHORD)
MAPPED = (MAP, STARMAP, CHUNKS)


class Signature(NamedTuple):
    """One signature: a call of a task, or several of them composed."""

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    immutable: bool
    #: The app that made it, or what it stands in: Celery forgets it of links that it copies, and JSON has none.
    app: Any = None

    @property
    def links(self) -> list[Signature]:
        """What is called with its result."""
        return signatures(self.options.get("link"), f"a link of {self.task}", self.app)

    @property
    def members(self) -> list[Signature]:
        """What a chain or a group consists of, or the header of a chord."""
        if self.task != CHORD:
            return signatures(self.kwargs.get("tasks"), f"a member of {self.task}", self.app)
        header = self.kwargs.get("header")
        if isinstance(header, Mapping) and (whole := read(header, app=self.app)).task in (CHAIN, GROUP):
            return whole.members  # as Celery takes them: a chain's members, too, one beside the other
        return signatures(header, "a member of a chord's header", self.app)


def read(value: Any, what: str = "a canvas", app: Any = None) -> Signature:
    """A signature of its dict, in one of ``app``; raises ``InvalidInput`` for what is none."""
    if not isinstance(value, Mapping) or not isinstance(value.get("task"), str):
        raise InvalidInput(f"{what} is {shown(value)}, which is no signature", fix='for example embed.s("a text")')
    args, kwargs, options = (value.get(name) or () for name in ("args", "kwargs", "options"))
    named = all(not each or isinstance(each, Mapping) for each in (kwargs, options))
    if not named or not isinstance(args, list | tuple):
        raise InvalidInput(f"the arguments of {value['task']!r:.80} are no list and no object", fix="write task.s(…)")
    kind = value.get("subtask_type")
    if kind and f"celery.{kind}" not in COMPOSED:
        raise InvalidInput(f"{kind!r:.80} is no kind of canvas that is known here", fix="use chain, group and chord")
    task = f"celery.{kind}" if kind else value["task"]
    return Signature(task, list(args), dict(kwargs), dict(options), bool(value.get("immutable")), _app_of(value, app))


def _app_of(value: Any, around: Any) -> Any:
    own = getattr(value, "_app", None)
    return around if own is None else own


def signatures(value: Any, what: str, app: Any = None) -> list[Signature]:
    """One signature, many of them, or none."""
    if value is None:
        return []
    if isinstance(value, Mapping | str) or not isinstance(value, Iterable):
        return [read(value, what, app)]
    return [read(each, what, app) for each in value]
