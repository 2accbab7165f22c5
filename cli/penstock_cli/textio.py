"""Text of files, pipes and terminals: UTF-8, whatever the locale says.

Only a terminal is spoken to in its own encoding. What that cannot show becomes an escape, never an error. A byte order
mark is no text: it is dropped. Lines end in ``\\n`` (or ``\\r\\n``) and nowhere else: U+2028 and its kind are text.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, Any, BinaryIO

import click

MARK = b"\xef\xbb\xbf"
#: What ends a line for some programs and is allowed unescaped in JSON.
_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def set_up() -> None:
    """Once, before anything is printed. A stream that is none of the interpreter's own (in a test) stays as it is."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            if stream.isatty():
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def argument(word: str) -> str:
    """A word of the command line: UTF-8 where the locale's encoding could not read it."""
    try:
        word.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeError):
            return os.fsencode(word).decode()
    return word


def speaks_utf8(stream: IO[str] | Any) -> bool:
    """Whether every character can be written to this stream as it is."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "") == "utf8"


def unbroken(json_text: str) -> str:
    """JSON text that is one line for every program, those that end lines at U+2028 among them."""
    return json_text if json_text.isascii() else json_text.translate(_BREAKS)


def stdin() -> BinaryIO:
    """Standard input as bytes."""
    if sys.stdin is None:  # the shell's <&-
        raise click.UsageError("standard input is closed.")
    return sys.stdin.buffer


def decode(raw: bytes, what: str, *, terminal: bool = False) -> str:
    """Text of a file or pipe without a mark; raises ``UsageError`` that calls it ``what``."""
    try:
        return raw.removeprefix(MARK).decode((terminal and sys.stdin.encoding) or "utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{what} is not UTF-8 text (byte 0x{raw[error.start]:02x}).") from None
