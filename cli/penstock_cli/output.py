"""Data to standard output, messages to standard error.

Tables are aligned columns without a frame: they read well on a terminal and cut well in a pipe. Colour and animation
only on a terminal, never with ``NO_COLOR``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

import click

from penstock_cli.layout import fit, wrap
from penstock_cli.textio import plain_json, speaks_utf8, visible

COLOURS = {
    "succeeded": "green",
    "delivered": "green",
    "ok": "green",
    "running": "cyan",
    "cancelling": "yellow",
    "warning": "yellow",
    "expired": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "dead": "red",
    "error": "red",
}


class Output:
    """Where a command prints."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False

    @property
    def width(self) -> int | None:
        """Columns of the terminal that data goes to; ``None`` for a file or a pipe, where nothing is left out."""
        return columns(sys.stdout)

    # Data -----------------------------------------------------------------------------------------------------

    def data(self, value: Any) -> None:
        """One JSON value: indented for a person, on one line for a program."""
        self.line(dumps(value, indent=2 if is_terminal(sys.stdout) else None))

    def jsonl(self, value: Any) -> None:
        """One JSON value on one line, at once: for streams."""
        self.line(dumps(value))
        self.flush()

    def rows(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        id: str,
        header: Sequence[str] = (),
        cells: Callable[[Mapping[str, Any]], Sequence[Any]] = lambda row: list(row.values()),
        drop: Sequence[str] = (),
        wide: Sequence[str] = (),
    ) -> bool:
        """A list, as every command prints it: with ``--json`` an object a line, with ``-q`` the value of ``id`` a line
        (each once), else a table. ``False`` when there is nothing to list: what to say then is the command's."""
        found = list(rows)
        if self.json:
            for row in found:
                self.line(dumps(row))
        elif self.quiet:
            for value in dict.fromkeys(str(row[id]) for row in found):
                self.line(value)
        elif found:
            self.table(header or list(found[0]), [cells(row) for row in found], drop=drop, wide=wide)
        return bool(found)

    def line(self, text: str = "") -> None:
        """One line of text."""
        self.text(text + "\n")

    def text(self, text: str) -> None:
        """Text as it stands."""
        try:
            sys.stdout.write(text)
        except BrokenPipeError:
            pipe_closed()

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            pipe_closed()

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        drop: Sequence[str] = (),
        wide: Sequence[str] = (),
    ) -> None:
        """Aligned columns under a header. On a terminal as many as it has room for (see ``layout.fit``)."""
        text = [["-" if cell in (None, "") else visible(str(cell)).replace("\n", " ") for cell in row] for row in rows]
        if self.width is not None:
            header, text = fit(header, text, self.width, drop=drop, wide=wide)
        cells = [[str(name).upper() for name in header], *text]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for number, row in enumerate(cells):
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            styled = [colour(text, bold=True) if number == 0 else colour(text) for text in padded]
            self.line("  ".join(styled).rstrip())

    def pairs(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Names and values, one a line; what has no value is left out."""
        kept = [(name, visible(str(value))) for name, value in pairs if value not in (None, "", {})]
        width = max((len(name) for name, _ in kept), default=0)
        for name, value in kept:
            room = None if self.width is None else max(20, self.width - width - 2)
            wrapped = wrap(value, room).replace("\n", "\n" + " " * (width + 2)) if room else value
            self.line(f"{colour(name.ljust(width), bold=True)}  {colour(wrapped)}")

    # Messages -------------------------------------------------------------------------------------------------

    def say(self, text: str = "") -> None:
        """A message for a person; silent with ``-q``."""
        if not self.quiet:
            click.echo(wrap(visible(text), columns(sys.stderr)), err=True, color=_colours(sys.stderr))

    def warn(self, text: str) -> None:
        """A warning; shown with ``-q`` too."""
        words = wrap(f"warning: {visible(text)}", columns(sys.stderr), indent="  ")
        if _colours(sys.stderr):
            words = words.replace("warning", click.style("warning", fg="yellow"), 1)
        click.echo(words, err=True, color=_colours(sys.stderr))


def dumps(value: Any, *, indent: int | None = None) -> str:
    """JSON text, with nothing in it that a terminal obeys; what JSON has no word for becomes text."""
    return plain_json(json.dumps(value, ensure_ascii=not speaks_utf8(sys.stdout), indent=indent, default=str))


def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches this stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def columns(stream: TextIO) -> int | None:
    """How wide the terminal behind this stream is; ``None`` when it is none."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


def animated() -> bool:
    """Whether messages may move."""
    return is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"


def colour(text: str, *, bold: bool = False) -> str:
    """The text in the colour of the state it names, or in bold, where colours show."""
    if not _colours(sys.stdout):
        return text
    if bold:
        return click.style(text, bold=True)
    name = COLOURS.get(text.strip())
    return click.style(text, fg=name) if name else text


def _colours(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and is_terminal(stream)


def pipe_closed() -> None:
    """Whoever read our output has enough (``| head``): end quietly."""
    drop_output()
    raise click.exceptions.Exit(0)


def drop_output() -> None:
    """What standard output still buffers goes nowhere: the interpreter flushes it once more at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
