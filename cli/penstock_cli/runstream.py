"""``penstock run --stream``: what a step-wise model gives, printed while it is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from penstock.job import JobState
from penstock_cli.context import App
from penstock_cli.errors import FAILED
from penstock_cli.jobwatch import event_dict
from penstock_cli.output import dumps

if TYPE_CHECKING:
    from penstock import JobHandle


def follow(app: App, job: JobHandle, *, raw: bool) -> int | None:
    """Print pieces until the job has ended; Ctrl-C, or a reader that has enough, cancels it. The exit status."""
    pieces = _Pieces(app)
    try:
        for event in job.stream():
            if app.out.json:
                app.out.jsonl(event_dict(event))
            elif event.kind == "progress":
                pieces.show(event.data.get("progress"), int(event.data.get("attempt", 1)))
    except (KeyboardInterrupt, click.exceptions.Exit):  # the second when standard output was closed
        status = job.cancel()
        pieces.end()
        app.out.say(f"job {job.id}: {status}")
        raise
    pieces.end()
    if app.out.json:
        return None if job.refresh().state is JobState.SUCCEEDED else FAILED
    output = job.result()  # raises what `penstock run` raises
    if not pieces.is_text:  # text is the output already, word by word
        if raw and isinstance(output, str):
            app.out.line(output)
        else:
            app.out.data(output)
    return None


class _Pieces:
    """Text runs on, anything else gets a line of its own."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._attempt = 0
        self._open = False
        self.shown = False
        #: Whether all that was shown is text.
        self.is_text = False

    def show(self, piece: object, attempt: int) -> None:
        """Print it at once. What an earlier attempt gave is void: a message says so."""
        if self.shown and attempt != self._attempt:
            self.end()
            self._app.out.say(f"attempt {attempt}: it begins anew")
            self.shown = False
        self.is_text = isinstance(piece, str) and (self.is_text or not self.shown)
        self._attempt, self.shown = attempt, True
        if isinstance(piece, str):
            self._app.out.text(piece)
            self._open = not piece.endswith("\n")
        else:
            self.end()
            self._app.out.line(dumps(piece))
        self._app.out.flush()

    def end(self) -> None:
        """End a line of text that is open."""
        if self._open:
            self._open = False
            self._app.out.line()
