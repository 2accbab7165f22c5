"""Text of files, pipes and terminals: UTF-8, whatever the locale says.

Only a terminal is spoken to in its own encoding. What that cannot show becomes an escape, never an error. A byte order
mark is no text: it is dropped. Lines end in ``\\n`` (or ``\\r\\n``) and nowhere else: U+2028 and its kind are text.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from typing import IO, Any, BinaryIO

import click

MARK = b"\xef\xbb\xbf"
#: What may stand unescaped in JSON and is no mere text: what some terminals obey, what ends a line for some programs,
#: and what turns the direction of writing.
_SIGNS = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_IN_JSON = re.compile(f"[{_SIGNS}]")
_IN_WORDS = re.compile(f"[\x00-\x08\x0b-\x1f{_SIGNS}]")


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


def plain_json(text: str) -> str:
    """The same JSON as characters that nobody obeys: a line for every program, those that end one at U+2028 among
    them, and nothing that moves a terminal."""
    if text.isascii() and "\x7f" not in text:  # a line of a bulk file, mostly
        return text
    return _IN_JSON.sub(_by_number, text)


def visible(text: str) -> str:
    """Words of anybody, for a person: what a terminal might obey becomes an escape. Line breaks and tabs stay."""
    return _IN_WORDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _by_number(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


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
