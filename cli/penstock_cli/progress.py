"""Progress of many jobs: a bar with rate and remaining time on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from penstock.clock import monotonic_s
from penstock_cli.jobview import seconds
from penstock_cli.layout import age
from penstock_cli.output import Output, animated

#: How often a log gets a line, seconds.
LOG_EVERY_S = 5.0
#: The rate is taken over about so many seconds.
WINDOW_S = 10.0
#: What remains is told from so long after the first result on: before, the start would be taken for the pace, seconds.
SETTLED_S = 2.0


class Rate:
    """Items per second over the last ``WINDOW_S``; time comes in as an argument."""

    def __init__(self, now: float) -> None:
        self._marks = [(now, 0)]
        self._begun = False

    def add(self, done: int, now: float) -> None:
        """``done`` items are done at ``now``."""
        if not self._begun:
            # How long the first one took says how long it takes to begin.
            self._begun, self._marks = True, [(now, done)]
            return
        if now - self._marks[-1][0] < WINDOW_S / 20 and len(self._marks) > 1:
            self._marks[-1] = (self._marks[-1][0], done)
        else:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW_S:
            self._marks.pop(0)

    def per_s(self, now: float) -> float:
        """The rate."""
        at, done = self._marks[0]
        return (self._marks[-1][1] - done) / (now - at) if now > at else 0.0

    def left_s(self, left: int, now: float) -> float | None:
        """How long ``left`` more take; ``None`` while nobody can know."""
        rate = self.per_s(now)
        if not self._begun or not rate or now - self._marks[0][0] < SETTLED_S:
            return None
        return left / rate


class Progress:
    """Shows how far a number of jobs is. ``total`` may be unknown (a pipe)."""

    def __init__(self, out: Output, total: int | None) -> None:
        self._out = out
        self._total = total
        self._done = 0
        self._failed = 0
        self._rate = Rate(monotonic_s())
        self._started = monotonic_s()
        self._logged = self._started
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if animated() and not self._out.quiet:
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("jobs", total=self._total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._logged != self._started and kind is None:
            self._out.say(self._text(monotonic_s()))

    def advance(self, count: int = 1, *, failed: bool = False) -> None:
        """So many more are done."""
        self._done += count
        self._failed += failed
        now = monotonic_s()
        self._rate.add(self._done, now)
        if self._bar is not None:
            rate, left_s = self._rate.per_s(now), self._left_s(now)
            notes = [f"{rate:,.0f}/s"] if rate else []
            notes += [f"{self._failed:,} failed"] if self._failed else []
            notes += [f"about {age(left_s)} left"] if left_s is not None else []
            self._bar.update(self._task, completed=self._done, note=", ".join(notes))
        elif now - self._logged >= LOG_EVERY_S:
            self._logged = now
            self._out.say(self._text(now))

    def _text(self, now: float) -> str:
        rate = self._rate.per_s(now)
        parts = [
            f"{self._done:,} of {self._total:,}" if self._total is not None else f"{self._done:,}",
            f"{rate:,.0f}/s",
        ]
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        if (left_s := self._left_s(now)) is not None:
            parts.append(f"about {seconds(left_s)} left")
        return ", ".join(parts)

    def _left_s(self, now: float) -> float | None:
        if self._total is None or self._done >= self._total:
            return None
        return self._rate.left_s(self._total - self._done, now)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(file=sys.stderr)
    parts: list[ProgressColumn] = [MofNCompleteColumn(), TextColumn("{task.fields[note]}")]
    if console.width >= 70:
        parts = [TextColumn("{task.description}"), BarColumn(bar_width=None), *parts, TimeElapsedColumn()]
    return Bar(*parts, console=console, transient=True)
