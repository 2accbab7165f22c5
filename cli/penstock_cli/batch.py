"""``penstock batch run``: a file of requests in, a file of results out."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import click

from penstock.clock import monotonic_s
from penstock_cli import jsonl, preflight, resumed, textio
from penstock_cli.bulkrun import BulkRun
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.errors import FAILED
from penstock_cli.jobopts import as_keywords, job_options
from penstock_cli.jobview import counted, seconds
from penstock_cli.output import Output, dumps
from penstock_cli.params import complete_model
from penstock_cli.progress import Progress
from penstock_cli.reminder import Reminder
from penstock_cli.serving import warn_if_unserved


@group()
def batch() -> None:
    """Run a file of jobs."""


@batch.command("run")
@click.option("-i", "--input", "source", required=True, metavar="FILE", help="JSON lines; - for standard input.")
@click.option("-o", "--output", "target", default="-", metavar="FILE", help="JSON lines; - (default) to print.")
@click.option("--model", required=True, shell_complete=complete_model, metavar="NAME", help="The model to run.")
@click.option("--resume", is_flag=True, help="Keep the results in the output file and run the rest.")
@click.option("--overwrite", is_flag=True, help="Replace the output file.")
@job_options
@pass_app
def run(app: App, source: str, target: str, model: str, resume: bool, overwrite: bool, **options: Any) -> int | None:
    """Run every line of a file through a model.

    In: OpenAI's Batch form, {"custom_id": "a", "body": INPUT} a line, or bare inputs. Out: {"custom_id", "response" or
    "error"} a line, in the order in which jobs end; sort by custom_id. A bad line is reported in its own output line,
    and so is a custom_id that was used before.
    Exit status 1 if any line failed. Lines run in the lane background unless --lane says otherwise.
    """
    if target != "-":
        _refuse(source, Path(target), resume=resume, overwrite=overwrite)
    preflight.check(app)
    done = resumed.prepare(Path(target), resume=resume) if target != "-" else set()
    keywords = as_keywords(options)
    started = monotonic_s()
    with ExitStack() as files:
        lines = _open_source(files, source)
        total = _count(source)
        sink = None if target == "-" else files.enter_context(Path(target).open("ab"))
        warn_if_unserved(app, model)
        if done:
            app.out.say(f"{counted(len(done), 'result')} there already")
        runner = BulkRun(app.client, model, keywords)
        try:
            with Progress(app.out, total) as progress, Reminder(app, [model]) as reminder:
                for result in runner.results(jsonl.requests(lines), skip=done):
                    reminder.news()
                    if result is not None:
                        _write(app.out, sink, result)
                    progress.advance(failed=result is not None and result["error"] is not None)
        except (KeyboardInterrupt, OSError) as error:
            cancelled = runner.cancel()
            hint = "" if target == "-" else "; the same command with --resume goes on"
            app.out.say(
                f"stopped: {counted(runner.done, 'result')} written, {counted(cancelled, 'job')} cancelled{hint}"
            )
            if isinstance(error, OSError) and error.filename is None and target != "-":
                # What the file's buffer holds cannot be written either: that it is closed must not fail once more.
                files.pop_all()
                raise OSError(error.errno, error.strerror, target) from error
            raise
    took_s = monotonic_s() - started
    summary = {"jobs": runner.done, "failed": runner.failed, "skipped": runner.skipped, "seconds": round(took_s, 3)}
    if app.out.json and target != "-":
        app.out.data(summary)
    rate = runner.done / took_s if took_s else 0.0
    app.out.say(
        f"{counted(runner.done, 'job')} in {seconds(took_s)} ({rate:,.0f}/s), {runner.failed:,} failed"
        + (f": {target}" if target != "-" else "")
    )
    return FAILED if runner.failed else None


def _write(out: Output, sink: BinaryIO | None, result: dict[str, Any]) -> None:
    # A line is safe when its job's result was shown: a killed run loses nothing that it counted.
    if sink is None:
        out.jsonl(result)
        return
    # What no encoding can write (half a surrogate pair) becomes JSON's own escape.
    sink.write(dumps(result).encode(errors="backslashreplace") + b"\n")
    sink.flush()


def _refuse(source: str, target: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise ``UsageError`` rather than write over something that is no output of ours, or is the input itself."""
    if not target.exists():
        return
    if target.is_dir():
        raise click.UsageError(f"{target} is a folder. -o names a file.")
    if _same(source, target):
        raise click.UsageError(f"{target} is both input and output. Give -o another file.")
    if target.stat().st_size == 0:
        return
    if resume:
        with target.open("rb") as file:
            number = jsonl.foreign(file)
        if number:
            raise click.UsageError(
                f"{target} holds no results of `penstock batch run` (line {number}), and is left as it is. "
                "--resume wants an earlier output."
            )
    elif not overwrite:
        raise click.UsageError(
            f"{target} exists. --resume keeps its results and runs the rest, --overwrite replaces it."
        )


def _same(source: str, target: Path) -> bool:
    """Whether both are one file, under whatever names."""
    if not target.is_file():
        return False
    try:
        status = os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
    except (OSError, ValueError):  # absent, or no file behind it
        return False
    return os.path.samestat(status, target.stat())


def _open_source(files: ExitStack, source: str) -> BinaryIO:
    if source == "-":
        return textio.stdin()
    try:
        return files.enter_context(Path(source).open("rb"))
    except OSError as error:
        raise click.UsageError(f"cannot read {source}: {error.strerror}.") from None


def _count(source: str) -> int | None:
    """Lines that are not empty, for the bar; unknown for a pipe."""
    path = Path(source)
    if source == "-" or not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(1 for line in file if not jsonl.empty(line))
