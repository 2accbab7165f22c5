"""Postgres through psycopg 3: connections and what their errors mean.

Connections are in autocommit mode, so that a verb of one statement is one round trip. Before each use the socket is
looked at (no round trip): a server that went away has closed it, and then the connection is replaced unnoticed.

Durability. Accepted jobs, claims and outcomes wait for the log to be flushed: a claim that the server forgot in a crash
would give its attempt number, which fences workers off, a second time. Marks and heartbeats do not wait
(``synchronous_commit = off``): nothing depends on the last of them.
"""

from __future__ import annotations

import functools
import select
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError, InvalidInput, PenstockError, SchemaOutdated, install
from penstock.store import pgerrors

if TYPE_CHECKING:
    import psycopg

#: Longest wait for a connection, seconds (the client library knows no shorter one than 2).
CONNECT_S = 2
#: The kernel gives up on a server that does not acknowledge for so long, milliseconds.
_SILENCE_MS = 10_000

# Every statement finds its rows by an index. A plan is made when a statement is first prepared, often on an empty
# table, where reading all of it looks cheapest, and is kept while the table grows: tens of times too slow, until
# autovacuum comes along. A bitmap has no order: with one, a page of a thousand is all that fit, sorted.
#
# So there is one good plan, whatever the values: it is made once. Otherwise each list of ids, which the server takes to
# be longer than it is, has a statement planned anew, which takes longer than to run it. And tables of a few rows are
# read as a whole, at the price of what is switched off: by that the server would take them for enormous, and translate
# the statement into machine code, each time for 60 ms.
_PLANNER = " ".join(
    f"-c {setting}"
    for setting in (
        "enable_seqscan=off",
        "enable_bitmapscan=off",
        "enable_hashjoin=off",
        "enable_mergejoin=off",
        "plan_cache_mode=force_generic_plan",
        "jit=off",
    )
)

#: How long a statement waits for its answer, seconds: a server that hangs, or a network that swallows packets, must not
#: hang its clients too. The longest statements, inserts of many megabytes, take a fraction of it.
ANSWER_S = 30
#: How long a statement waits for a row or table that somebody else has locked, seconds.
LOCK_WAIT_S = 5
#: A session that stops in the middle of a transaction, with its process, is ended by the server after so long, seconds.
_IDLE_IN_TRANSACTION_S = 10

#: Text comes as text, whatever the server and PGCLIENTENCODING say: in a database of the encoding SQL_ASCII, as it is
#: made where there is no locale, it would come as bytes.
TEXT = {"client_encoding": "utf8"}

#: SQLSTATE of errors that say: try the whole transaction again.
RETRYABLE = frozenset({"40001", "40P01"})
#: SQLSTATE of a missing table, column or schema.
_OTHER_SCHEMA = frozenset({"42P01", "42703", "3F000"})


def connect(parameters: Mapping[str, Any], *, durable: bool) -> psycopg.Connection[Any]:
    """A connection in autocommit mode. ``parameters`` are libpq's; a user's win where no promise depends on ours."""
    ours = (
        f"-c synchronous_commit={'on' if durable else 'off'} -c lock_timeout={LOCK_WAIT_S}s"
        f" -c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION_S}s {_PLANNER}"
    )
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "application_name": "penstock",
        "tcp_user_timeout": _SILENCE_MS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        **parameters,
        **TEXT,
        "options": f"{parameters.get('options', '')} {ours}".strip(),
    }
    # Statements are few and always the same: prepared at the second use, never evicted.
    connection: psycopg.Connection[Any] = _patient(psycopg_module()).connect(
        autocommit=True, prepare_threshold=2, **options
    )
    return connection


def is_stale(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has hung up. Looks at the socket only: an idle one has nothing to read but a farewell."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def translate(error: Exception, where: str) -> PenstockError | None:
    """A driver's error as ours; ``None`` if it is a defect of the program."""
    psycopg = psycopg_module()
    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate or ""
    if state in _OTHER_SCHEMA:
        return SchemaOutdated(f"the database {where} has no tables of this version", fix="penstock db upgrade")
    if isinstance(error, psycopg.DataError) or (isinstance(error, psycopg.ProgrammingError) and not state):
        if not state and (wrong := pgerrors.misconfigured(_first_line(error), where)) is not None:
            return wrong  # psycopg reads some options itself
        # A NUL in text that did not come through a verb which looks for it: an id in a query, say. Or a value of a
        # type that has no place in SQL.
        return InvalidInput(
            f"the database cannot hold a value of this call: {_first_line(error)}", fix="correct the value"
        )
    return pgerrors.explain(state, _first_line(error), where, operational=isinstance(error, _broken(psycopg)))


def _broken(psycopg: Any) -> tuple[type[Exception], ...]:
    return psycopg.OperationalError, psycopg.InterfaceError


@functools.cache
def _patient(psycopg: Any) -> Any:
    """A connection class whose patience ends."""

    class Connection(psycopg.Connection):  # type: ignore[misc]
        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(gen, *args, **{"timeout": ANSWER_S, **options})

    return Connection


def roll_back(cursor: Any) -> None:
    """End a failed transaction, unless its connection is of no use any more."""
    status = cursor.connection.info.transaction_status.name
    if status in ("INTRANS", "INERROR"):
        cursor.execute("ROLLBACK")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no answer"


def psycopg_module() -> Any:
    """The driver; raises ``ConfigError`` where it is not installed."""
    try:
        import psycopg
    except ImportError:
        raise ConfigError(
            "PENSTOCK_DATABASE_URL names Postgres, but psycopg is not installed", fix=install("postgres")
        ) from None
    return psycopg
