"""Reads INPUT: JSON, text, ``@file`` or ``-``.

What is JSON is taken as JSON; other words are text. What was meant as JSON and is damaged (it begins like an object, an
array or a quoted text) is an error rather than a surprise.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from penstock_cli import textio


def read_input(text: str, *, raw: bool = False) -> Any:
    """The value that INPUT means; ``raw`` takes it as text whatever it looks like."""
    source, content = "", text
    if text == "-":
        source, content = "standard input", _stdin()
    elif text.startswith("@") and len(text) > 1:
        source, content = text[1:], _file(Path(text[1:]))
    if source:
        content = content.removesuffix("\n").removesuffix("\r")
    if raw:
        return content
    return _value(content, source)


def _value(content: str, source: str) -> Any:
    try:
        return json.loads(content, parse_constant=_no_constant)
    except RecursionError:
        raise click.UsageError(f"{source or 'INPUT'} is nested too deeply to be read as JSON.") from None
    except ValueError as error:
        if content.lstrip()[:1] in ("{", "[", '"'):
            _damaged(content, source, error)
        if not content.strip():
            raise click.UsageError(
                f"{source or 'INPUT'} is empty. An empty text is written '\"\"', or -r with an empty INPUT."
            ) from None
        return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _damaged(content: str, source: str, error: ValueError) -> NoReturn:
    where = f"{source} holds" if source else "INPUT is"
    hint = "to send it as text, add -r"
    if not source:
        # The shell took the quotes away: the commonest cause.
        hint = f"put it in single quotes, as in {shlex.quote(_example(content))}; {hint}"
    raise click.UsageError(f"{where} damaged JSON ({error}): {hint}.")


def _example(content: str) -> str:
    return {"{": '{"text": "hello"}', "[": '["a", "b"]'}.get(content.lstrip()[0], '"hello"')


def _file(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"cannot read {path}: {reason}. (INPUT is a file because of its @.)") from None
    return textio.decode(raw, str(path))


def _stdin() -> str:
    stream = textio.stdin()
    if sys.stdin.isatty():
        click.echo("reading INPUT from the terminal; end it with Ctrl-D", err=True)
    return textio.decode(stream.read(), "standard input", terminal=sys.stdin.isatty())
