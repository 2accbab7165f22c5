"""A server's URL in parts, for the broker and the database alike. PURE.

What a person writes is read as it was meant, as long as it can be meant in one way only: a password with ``@``, ``:``,
``/``, ``?``, ``#`` or a space may stand as it is, or written ``%40``, ``%3A`` and so on. ``%`` followed by two
hexadecimal digits is always one character. Where two readings are possible, none is guessed: a part of a password would
become the name of a host, and stand in every error. No error of this module quotes any of its input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\s:@/?#\[\],;]*)(?::(?P<port>[0-9]{0,5}))?")
_QUERY = re.compile(r"(?:[A-Za-z_][\w.-]*=[^&]*(?:&|$))*")
#: What a password may hold and a query usually does: a query without it is never half of a password.
_CUT = re.compile(r"[/?]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The parts, decoded. Its ``repr`` shows neither user nor password, nor options, which may hold a password too."""

    scheme: str
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    #: Names and ports; an empty name and ``None`` where none was written.
    hosts: tuple[tuple[str, int | None], ...] = ()
    #: With its leading slash, if there is one.
    path: str = ""
    query: dict[str, str] = field(default_factory=dict, repr=False)


def parse(url: str) -> Address:
    """The parts of a URL; raises ``ValueError``, which quotes nothing of it."""
    scheme, found, rest = url.partition("://")
    if not found or not _SCHEME.fullmatch(scheme):
        raise ValueError("it does not begin with a scheme such as redis:// or postgresql://")
    if "\0" in unquote(url):
        raise ValueError("it holds a NUL character")
    readings = list(_readings(rest))
    if not readings:
        raise ValueError("what stands between :// and the name of a database is no host and port")
    if len(readings) > 1:
        raise ValueError("it can be read in several ways: write the special characters of its password as %XX")
    user, where, path, query = readings[0]
    username, colon, password = user.partition(":")
    return Address(
        scheme=scheme.lower(),
        username=unquote(username) or None,
        password=unquote(password) if colon and password else None,
        hosts=tuple(_hosts(where) or ()),
        path=unquote(path),
        query={name: unquote(value) for name, _, value in (pair.partition("=") for pair in query.split("&")) if name},
    )


def quoted(path: str) -> str:
    """A file's path as it must stand in a URL to be read back exactly, whatever characters it has."""
    return quote(path, safe="/")


def socket_url(path: str) -> str:
    """The URL of a Redis on a unix socket."""
    return f"redis+socket://{quoted(path)}"


def _readings(rest: str) -> Iterator[tuple[str, str, str, str]]:
    """The ways to read what follows ``://``: user with password, hosts, path, query."""
    cut = _CUT.search(rest)
    usual = _split(rest, (rest[: cut.start()] if cut else rest).rfind("@"))
    if usual is not None:
        yield usual
        if "@" not in usual[2] and _QUERY.fullmatch(usual[3]):
            return  # as the standard has it
    for place in (match.start() for match in re.finditer("@", rest)):
        user = rest[:place]
        found = _split(rest, place)
        # A password that holds a slash or a question mark stands behind a colon.
        if found is not None and found != usual and ":" in _CUT.split(user, maxsplit=1)[0]:
            yield found


def _split(rest: str, at: int) -> tuple[str, str, str, str] | None:
    """One reading: the user ends at this place (-1: there is none). ``None`` if the rest is no host then."""
    user, behind = (rest[:at], rest[at + 1 :]) if at >= 0 else ("", rest)
    cut = _CUT.search(behind)
    where, tail = (behind[: cut.start()], behind[cut.start() :]) if cut else (behind, "")
    if _hosts(where) is None:
        return None
    path, _, query = tail.partition("?")
    return user, where, path, query


def _hosts(text: str) -> list[tuple[str, int | None]] | None:
    found = []
    for part in text.split(","):
        match = _HOST.fullmatch(part)
        if match is None or int(match["port"] or 0) > 65535:
            return None
        name = unquote(match["name"]).removeprefix("[").removesuffix("]")
        found.append((name, int(match["port"]) if match["port"] else None))
    return found if text else []
