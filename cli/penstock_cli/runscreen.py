"""What ``penstock job watch`` shows of a run while it goes on."""

from __future__ import annotations

from typing import Any

from penstock.clock import isoformat, monotonic_s, now
from penstock.job import Job
from penstock_cli.context import App
from penstock_cli.layout import fit
from penstock_cli.output import animated
from penstock_cli.progress import LOG_EVERY_S
from penstock_cli.runlines import DROP, HEADER, changed, done, step_dict, step_row, worth
from penstock_cli.runview import StepView


class Screen:
    """The table, drawn again on a terminal; elsewhere a line for each step that has changed, with ``--json`` too."""

    def __init__(self, app: App) -> None:
        self._app = app
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

    def show(self, run: Job, shown: list[StepView]) -> bool:
        """How it stands now; whether that is news."""
        due = monotonic_s() - self._counted_at >= LOG_EVERY_S
        if due:
            self._counted_at = monotonic_s()
        every = list(changed(self._before, shown, counts=True))
        if self._app.out.json:
            for view in every:
                self._app.out.jsonl({"run": run.id} | step_dict(view))
        elif self._live is not None:
            self._draw(run, shown)
        else:
            told = list(changed(self._before, shown, counts=due))
            for view in told:
                self._app.out.say(f"{isoformat(now())}  {view.name}  {view.status}  {done(view) or ''}".rstrip())
            # What was not told counts as not changed yet.
            names = {view.name for view in told}
            old = {view.name: view for view in self._before}
            shown = [view if view.name in names else old.get(view.name, view) for view in shown]
        self._before = shown
        return bool(every)

    def _draw(self, run: Job, shown: list[StepView]) -> None:
        from rich.text import Text

        size = self._live.console.size
        kept, more = worth(shown, max(1, size.height - 4))
        rows = [["-" if cell in (None, "") else str(cell) for cell in step_row(view, now())] for view in kept]
        header, cells = fit(HEADER, rows, size.width, drop=("*", *DROP))
        widths = [max(len(name), *(len(row[place]) for row in cells), 0) for place, name in enumerate(header)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        head = "  ".join(name.upper().ljust(width) for name, width in zip(header, widths, strict=True))
        text = "\n".join([f"{run.id}  {run.status}", head, *lines, *([more] if more else [])])
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
