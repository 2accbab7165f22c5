"""Progress of many jobs: a bar with rate and remaining time on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from penstock.clock import monotonic_s
from penstock_cli.jobview import seconds
from penstock_cli.output import Output, animated

#: How often a log gets a line, seconds.
LOG_EVERY_S = 5.0
#: The rate is taken over about so many seconds.
WINDOW_S = 10.0


class Rate:
    """Items per second over the last ``WINDOW_S``; time comes in as an argument."""

    def __init__(self, now: float) -> None:
        self._marks = [(now, 0)]

    def add(self, done: int, now: float) -> None:
        """``done`` items are done at ``now``."""
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
            note = f"{self._rate.per_s(now):,.0f}/s" + (f", {self._failed:,} failed" if self._failed else "")
            self._bar.update(self._task, completed=self._done, note=note)
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
        if self._total is not None and rate and self._done < self._total:
            parts.append(f"about {seconds((self._total - self._done) / rate)} left")
        return ", ".join(parts)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
