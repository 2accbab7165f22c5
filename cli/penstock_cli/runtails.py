"""The end of what a run's steps have given so far, a line for each: text of models, made safe for a terminal."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock_cli.output import dumps

#: What is kept of a step's output, characters, and of how many steps and elements of maps: the last heard.
KEPT, MOST = 400, 256
#: Of a map one element is shown until it has been quiet for so long, seconds: lines that jump cannot be read.
QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Tail:
    """The last ``KEPT`` characters of what one attempt of a step, or of an element of a map, has given up to the piece
    ``index``. Text runs on; anything else is the last piece, as JSON. ``at`` is when it came, on a monotonic clock."""

    path: str
    job: str
    attempt: int
    index: int
    text: str
    runs_on: bool
    cut: bool
    at: float


class Tails:
    """Thread-safe: one hears, another one shows."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        #: By path, who was heard last at the end.
        self._tails: dict[str, Tail] = {}
        self._news: dict[str, None] = {}
        self._shown: dict[str, str] = {}

    def hear(self, data: Mapping[str, Any], at: float) -> None:
        """A piece, as the run's stream tells it. What an earlier attempt gave is void."""
        with self._mutex:
            path = data["step"]
            self._tails[path] = _after(self._tails.pop(path, None), data, at)
            self._news.pop(path, None)
            self._news[path] = None
            while len(self._tails) > MOST:
                gone = next(iter(self._tails))
                del self._tails[gone]
                self._news.pop(gone, None)

    def news(self) -> list[Tail]:
        """Those that have grown since it was last asked, who was heard last at the end."""
        with self._mutex:
            found = [self._tails[path] for path in self._news]
            self._news.clear()
            return found

    def of(self, steps: Iterable[str], now: float) -> list[Tail]:
        """One for each of these steps of the graph that has given something: of a map, and of what a step answered
        with, that of one element."""
        with self._mutex:
            by_step: dict[str, Tail] = {step_of(tail.path): tail for tail in self._tails.values()}
            found = []
            for step in steps:
                before = self._tails.get(self._shown.get(step, ""))
                tail = before if before is not None and now - before.at <= QUIET_S else by_step.get(step)
                if tail is not None:
                    self._shown[step] = tail.path
                    found.append(tail)
            return found


def _after(old: Tail | None, data: Mapping[str, Any], at: float) -> Tail:
    piece, job, attempt, index = (data[name] for name in ("progress", "job", "attempt", "index"))
    runs_on = isinstance(piece, str)
    text, cut = piece if runs_on else dumps(piece), False
    if old is not None and index > 0 and runs_on and old.runs_on and (old.job, old.attempt) == (job, attempt):
        text, cut = old.text + text, old.cut
    return Tail(data["step"], job, attempt, index, text[-KEPT:], runs_on, cut or len(text) > KEPT, at)


def step_of(path: str) -> str:
    """The step of the run's own graph that a path begins with: ``plan`` of ``plan/write[3]``."""
    return path.partition("/")[0].partition("[")[0]


def tail_dict(tail: Tail) -> dict[str, Any]:
    """Its JSON form; ``cut``: there was more before it."""
    return {
        "step": tail.path,
        "id": tail.job,
        "attempt": tail.attempt,
        "index": tail.index,
        "partial": tail.text,
        "cut": tail.cut,
    }


def tail_line(tail: Tail, width: int) -> str:
    """``write[3]  …what it said last``, in at most ``width`` columns, with what a terminal might obey as escapes."""
    from rich.cells import cell_len

    head = f"{tail.path}  "
    words = safe(tail.text)
    room = max(1, width - cell_len(head))
    if tail.cut or cell_len(words) > room:
        start, room = len(words), room - 1
        while start and (room := room - cell_len(words[start - 1])) >= 0:
            start -= 1
        words = "…" + words[start:]
    return head + words


def safe(text: str) -> str:
    """Text on one line that no terminal obeys: control characters, line breaks and what turns the direction of writing
    as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def may_stream(models: Collection[str], announced: Mapping[str, Mapping[str, Any]]) -> bool:
    """PURE: whether steps that call these can have partial output, by what workers announced of each model: those that
    work in steps have, and a function may answer with steps that call such ones. Of what nobody announced it is not
    known."""
    if not any(info.get("steps") for info in announced.values()):
        return any(name not in announced for name in models)
    return any(
        name not in announced or announced[name].get("steps") or announced[name].get("function") for name in models
    )
