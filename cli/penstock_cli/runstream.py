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
                pieces.show(event.data.get("progress"), int(event.data.get("attempt", 1)), event.data.get("step"))
    except (KeyboardInterrupt, click.exceptions.Exit):  # the second when standard output was closed
        status = job.cancel()
        pieces.end()
        app.out.say(f"job {job.id}: {status}")
        raise
    pieces.end()
    if app.out.json:
        return None if job.refresh().state is JobState.SUCCEEDED else FAILED
    output = job.result()  # raises what `penstock run` raises
    if not pieces.are(output):
        if raw and isinstance(output, str):
            app.out.line(output)
        else:
            app.out.data(output)
    return None


class _Pieces:
    """Text runs on, anything else gets a line of its own."""

    def __init__(self, app: App) -> None:
        self._app = app
        #: The step of a run that is heard now; ``None`` in a job's own stream.
        self._step: str | None = None
        self._attempts: dict[str | None, int] = {}
        self._open = False
        #: All that each step has given, as long as that is text.
        self._texts: dict[str | None, list[str] | None] = {}

    def show(self, piece: object, attempt: int, step: str | None = None) -> None:
        """Print it at once. What an earlier attempt gave is void: a message says so, and which step is heard."""
        if step != self._step:
            self.end()
            self._app.out.say(f"step {step}:")
            self._step = step
        if self._attempts.get(step, attempt) != attempt:
            self.end()
            self._app.out.say(f"attempt {attempt}: it begins anew")
            del self._texts[step]
        self._attempts[step] = attempt
        texts = self._texts.setdefault(step, [])
        if isinstance(piece, str):
            if texts is not None:
                texts.append(piece)
            self._app.out.text(piece)
            self._open = not piece.endswith("\n")
        else:
            self._texts[step] = None
            self.end()
            self._app.out.line(dumps(piece))
        self._app.out.flush()

    def are(self, output: object) -> bool:
        """Whether they are the output already, word by word; what a step gave need not be that of its run."""
        if len(self._texts) != 1:
            return False
        [(step, texts)] = self._texts.items()
        return texts is not None and (step is None or "".join(texts) == output)

    def end(self) -> None:
        """End a line of text that is open."""
        if self._open:
            self._open = False
            self._app.out.line()
