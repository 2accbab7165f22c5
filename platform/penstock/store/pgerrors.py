"""What Postgres says when it does not do what it was asked: whether that passes, and what to type. PURE.

An error of a statement has a code. One of a connection that did not come about has only a text, and the text is in the
server's language: what is not recognised is taken for something that passes, and shown as it is.
"""

from __future__ import annotations

import re

from penstock.errors import PenstockError, StoreRefused, StoreTimeout, StoreUnavailable

_USED = "(`penstock doctor` shows what is used)"

#: Words of a refused connection, in the order in which they are looked for, with what mends it.
_REFUSED = (
    ("password authentication failed", "correct user and password in PENSTOCK_DATABASE_URL"),
    ("no password supplied", "put the password into PENSTOCK_DATABASE_URL: postgresql://user:password@host/name"),
    ("authentication failed", "correct user and password in PENSTOCK_DATABASE_URL, or the server's pg_hba.conf"),
    ("no pg_hba.conf entry", "allow this machine and user in the server's pg_hba.conf"),
    ("role ", "create the user (`createuser`), or correct PENSTOCK_DATABASE_URL"),
    ("database ", "create it (`createdb`), then `penstock db upgrade`, or correct PENSTOCK_DATABASE_URL"),
    ("does not support SSL", "let the server speak TLS, or take sslmode out of PENSTOCK_DATABASE_URL"),
    ("certificate verify failed", "name the right CA with sslrootcert in PENSTOCK_DATABASE_URL"),
    ("invalid connection option", "correct the options behind the ? in PENSTOCK_DATABASE_URL"),
    ("permission denied", "give the user its rights (GRANT)"),
)
#: What libpq and psycopg say of an option's value that nobody can connect with, and of which option. They quote it.
_BAD_OPTION = re.compile(
    r"""bad value for "?(\w+)|for connection option "(\w+)|invalid "?(\w+)"? (?:value|number)|could not match (\w+)"""
    r"""|(?:value for|configuration) parameter "(\w+)"""
)
#: Only with this do the words that are nothing but a kind of thing mean that it is missing.
_MISSING = "does not exist"


def misconfigured(text: str, where: str) -> StoreRefused | None:
    """The error of an option that nobody can connect with; ``None`` for other texts. Quotes no value of it."""
    found = _BAD_OPTION.search(text)
    if found is None:
        return None
    name = next(filter(None, found.groups()))
    return StoreRefused(
        f"the database {where} cannot be used: the option {name} has no value that Postgres takes",
        fix="correct the options behind the ? in PENSTOCK_DATABASE_URL",
    )


def explain(state: str, text: str, where: str, *, operational: bool) -> PenstockError | None:
    """The error of a SQLSTATE (empty: none came) and its text; ``None`` for one that is no operator's business.

    ``operational``: the driver holds the server or the connection responsible.
    """
    if state == "42501":
        return StoreRefused(f"the database {where} refuses: {text}", fix="give the user its rights (GRANT)")
    if state in ("57014", "55P03", "25P03") or "wait timeout expired" in text:
        return _late(state, text, where)
    if state == "25006":
        return StoreUnavailable(
            f"the database {where} is read-only: {text}",
            fix="name the primary in PENSTOCK_DATABASE_URL, not a replica, or wait until one is promoted",
        )
    if state in ("53100", "53200"):
        what = "disk" if state == "53100" else "memory"
        return StoreUnavailable(f"the database {where} has no {what} left: {text}", fix=f"give its server more {what}")
    if state == "53300" or "too many clients" in text or "remaining connection slots" in text:
        return StoreUnavailable(
            f"the database {where} takes no more connections: {text}",
            fix="raise its max_connections, or run fewer processes",
        )
    if not operational:
        return None
    if not state and (wrong := misconfigured(text, where)) is not None:
        return wrong
    if not state and (fix := _refusal(text)) is not None:
        return StoreRefused(f"the database {where} cannot be used: {text}", fix=f"{fix} {_USED}")
    if "starting up" in text or "shutting down" in text or "recovery" in text:
        return StoreUnavailable(f"the database {where} is not ready: {text}", fix="wait a moment")
    return StoreUnavailable(
        f"the database {where} cannot be used: {text}",
        fix=f"start the server, or correct PENSTOCK_DATABASE_URL {_USED}",
    )


def _late(state: str, text: str, where: str) -> StoreTimeout:
    if state == "55P03":
        return StoreTimeout(
            f"the database {where} did not get a lock in time: {text}",
            fix="try again; if it stays so, see who holds it (pg_stat_activity, pg_locks)",
        )
    return StoreTimeout(
        f"the database {where} did not finish a statement in time: {text}",
        fix="ask for less (a status, a model or a smaller limit narrows a list), or raise the server's "
        "statement_timeout; if everything is slow, see what it is busy with (pg_stat_activity)",
    )


def _refusal(text: str) -> str | None:
    for words, fix in _REFUSED:
        if words in text and (not words.endswith(" ") or _MISSING in text):
            return fix
    return None
