"""What ``penstock job watch`` shows of a run while it goes on."""

from __future__ import annotations

from typing import Any

from penstock.clock import isoformat, monotonic_s, now
from penstock.job import Job
from penstock_cli.context import App
from penstock_cli.layout import fit
from penstock_cli.output import animated
from penstock_cli.progress import LOG_EVERY_S
from penstock_cli.runlines import DROP, HEADER, changed, log_line, step_dict, step_row, worth
from penstock_cli.runtails import Tails, step_of, tail_dict, tail_line
from penstock_cli.runview import StepView

#: Width of a line about partial output in a log, columns.
LOGGED = 120


class Screen:
    """The table, drawn again on a terminal, with the end of what running steps have given below; elsewhere a line for
    each step that has changed or given something, with ``--json`` too."""

    def __init__(self, app: App, tails: Tails) -> None:
        self._app = app
        self._tails = tails
        #: When a log was told last of what a step has given.
        self._logged: dict[str, float] = {}
        self._live: Any = None
        self._before: list[StepView] = []
        self._counted_at = monotonic_s()

    def __enter__(self) -> Screen:
        if animated() and not (self._app.out.quiet or self._app.out.json):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, run: Job, shown: list[StepView], *, held: str = "") -> bool:
        """How it stands now, within which bounds; whether that is news."""
        due = monotonic_s() - self._counted_at >= LOG_EVERY_S
        if due:
            self._counted_at = monotonic_s()
        every = list(changed(self._before, shown, counts=True))
        if self._app.out.json:
            for view in every:
                self._app.out.jsonl({"run": run.id} | step_dict(view))
        elif self._live is not None:
            self._draw(run, shown, held)
        else:
            told = list(changed(self._before, shown, counts=due))
            for view in told:
                self._app.out.say(f"{isoformat(now())}  {log_line(view)}")
            # What was not told counts as not changed yet.
            names = {view.name for view in told}
            old = {view.name: view for view in self._before}
            shown = [view if view.name in names else old.get(view.name, view) for view in shown]
        self._before = shown
        return self._tell_partial(run) or bool(every)

    def last(self, run: Job) -> None:
        """It has ended: programs are told of what was given since."""
        if self._app.out.json:
            self._tell_partial(run)

    def _tell_partial(self, run: Job) -> bool:
        """What was given since the last look, where it is not drawn; whether there was any."""
        news = self._tails.news()
        if self._app.out.json:
            for tail in news:
                self._app.out.jsonl({"run": run.id} | tail_dict(tail))
        elif self._live is None:
            now_s = monotonic_s()
            for tail in self._tails.of(dict.fromkeys(step_of(tail.path) for tail in news), now_s):
                if now_s - self._logged.get(step_of(tail.path), -LOG_EVERY_S) >= LOG_EVERY_S:
                    self._logged[step_of(tail.path)] = now_s
                    self._app.out.say(f"{isoformat(now())}  {tail_line(tail, LOGGED)}")
        return bool(news)

    def _draw(self, run: Job, shown: list[StepView], held: str) -> None:
        from rich.text import Text

        size = self._live.console.size
        room = max(1, size.height - 4)
        running = [view.name for view in shown if view.status == "running"]
        partial = self._tails.of(running, monotonic_s())[-(room // 2) :] if room > 1 else []
        kept, more = worth(shown, room - len(partial))
        rows = [["-" if cell in (None, "") else str(cell) for cell in step_row(view, now())] for view in kept]
        header, cells = fit(HEADER, rows, size.width, drop=("*", *DROP))
        widths = [max(len(name), *(len(row[place]) for row in cells), 0) for place, name in enumerate(header)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        head = "  ".join(name.upper().ljust(width) for name, width in zip(header, widths, strict=True))
        spoken = [tail_line(tail, size.width) for tail in partial]
        title = "  ".join(filter(None, (run.id, run.status, held)))
        text = "\n".join([title, head, *lines, *([more] if more else []), *spoken])
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
