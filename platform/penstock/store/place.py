"""Which database: a URL read as the parts that its driver is given.

The parts never become a text again: a rendered URL would have to be quoted for whoever reads it next, and would stand
in the error of whoever cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock import address
from penstock.errors import ConfigError

_POSTGRES = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_FIX = "use sqlite:////path/to/file.db or postgresql://user:password@host/name, and write special characters as %XX"


@dataclass(frozen=True, slots=True)
class SQLiteFile:
    """A file, by its absolute path."""

    path: Path

    @property
    def where(self) -> str:
        """For people."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """A database on a server. ``parameters`` are libpq's, a password perhaps among them."""

    where: str
    parameters: dict[str, Any] = field(repr=False)


def read(url: str) -> SQLiteFile | PostgresDatabase:
    """The place that a URL names; raises ``ConfigError``, which quotes nothing of it."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme != "sqlite" and scheme not in _POSTGRES:
        # Nothing of it is quoted: it may be a password in the wrong variable.
        raise ConfigError("PENSTOCK_DATABASE_URL names no database that is supported", fix=_FIX)
    try:
        return _file(address.parse(url)) if scheme == "sqlite" else _server(address.parse(url))
    except ValueError as error:
        raise ConfigError(f"PENSTOCK_DATABASE_URL cannot be read: {error}", fix=_FIX) from None


def _file(parts: address.Address) -> SQLiteFile:
    if parts.hosts or parts.username:
        raise ValueError("a file needs three slashes and its path, four where the path is absolute")
    if parts.query:
        raise ValueError("a file has no options; a question mark in its path is written %3F")
    name = parts.path.removeprefix("/")
    if not name or name == ":memory:":
        raise ConfigError(
            "an SQLite database must be a file, since several processes share it",
            fix="for example PENSTOCK_DATABASE_URL=sqlite:////var/lib/penstock/penstock.db",
        )
    return SQLiteFile(Path(name).expanduser().absolute())


def _server(parts: address.Address) -> PostgresDatabase:
    ports = ",".join(str(port or "") for _, port in parts.hosts)
    given: dict[str, Any] = {
        "user": parts.username,
        "password": parts.password,
        "dbname": parts.path.removeprefix("/"),
        "host": ",".join(name for name, _ in parts.hosts),
        "port": ports if ports.strip(",") else None,
    }
    for name in parts.query.keys() - _options() if parts.query else ():
        # Not named: it may be the rest of a password with a question mark.
        raise ValueError(f"one of its options (a name of {len(name)} letters) is none that Postgres has")
    parameters = {name: value for name, value in given.items() if value} | parts.query
    host = parameters.get("host") or parameters.get("hostaddr") or "localhost"
    database = parameters.get("dbname") or parameters.get("user")
    return PostgresDatabase(f"{database} at {host}" if database else f"at {host}", parameters)


def _options() -> frozenset[str]:
    """The names that libpq knows."""
    from penstock.store.postgres import psycopg_module

    return frozenset(option.keyword.decode() for option in psycopg_module().pq.Conninfo.get_defaults())
