"""What a service waits for at its start, and what ends it at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from penstock.errors import BrokerUnavailable, SchemaOutdated, StoreRefused, StoreTimeout, StoreUnavailable, Unreachable
from penstock.store.engine import Database
from penstock.store.pgerrors import explain
from penstock.transport.refusals import Refused
from penstock.waiting import passes, until_reachable


def caused(cause: Exception) -> BrokerUnavailable:
    error = BrokerUnavailable("the broker does not answer")
    error.__cause__ = cause
    return error


def refused(text: str) -> Refused:
    return Refused(text, text.partition(" ")[0])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreUnavailable("x"), True),
        (StoreTimeout("x"), True),
        (StoreRefused("x"), False),
        (SchemaOutdated("x"), False),
        (BrokerUnavailable("x"), True),
        (caused(OSError("refused")), True),
        (caused(redis.ConnectionError("Error 111 connecting to box:6379. Connection refused.")), True),
        (caused(redis.TimeoutError("Timeout reading from socket")), True),
        (caused(redis.BusyLoadingError("LOADING Redis is loading the dataset in memory")), True),
        (caused(redis.ResponseError("MASTERDOWN Link with MASTER is down")), True),
        (caused(redis.AuthenticationError("invalid username-password pair")), False),
        (caused(redis.ResponseError("DB index is out of range")), False),
        (caused(redis.ResponseError("NOPERM this user has no permissions")), False),
        (caused(refused("LOADING Redis is loading the dataset in memory")), True),
        (caused(refused("READONLY You can't write against a read only replica.")), True),
        (caused(refused("WRONGPASS invalid username-password pair or user is disabled.")), False),
        (caused(refused("NOAUTH Authentication required.")), False),
        (caused(refused("NOPERM this user has no permissions to run the 'ping' command")), False),
        (caused(redis.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")), False),
    ],
)
def test_what_passes_by_itself(error: Unreachable, expected: bool) -> None:
    assert passes(error) is expected


def test_each_try_is_told_and_pauses_grow_to_a_bound() -> None:
    told: list[float] = []
    slept: list[float] = []

    def call() -> str:
        if len(told) < 6:
            raise StoreUnavailable("away")
        return "there"

    assert until_reachable(call, tell=lambda error, again_s: told.append(again_s), pause=slept.append) == "there"
    assert told == slept == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_what_does_not_pass_is_raised_at_once() -> None:
    def call() -> None:
        raise StoreRefused("no")

    with pytest.raises(StoreRefused):
        until_reachable(call, tell=lambda *_: pytest.fail("told"), pause=lambda _: pytest.fail("waited"))


@pytest.mark.parametrize(
    ("state", "text", "kind", "fix"),
    [
        ("", "FATAL:  the database system is starting up", StoreUnavailable, "wait"),
        ("57P03", "the database system is shutting down", StoreUnavailable, "wait"),
        ("", "Connection refused", StoreUnavailable, "start the server"),
        ("", "Datenbank »x« existiert nicht", StoreUnavailable, "start the server"),
        ("", 'FATAL:  password authentication failed for user "u"', StoreRefused, "password"),
        ("", "fe_sendauth: no password supplied", StoreRefused, "password"),
        ("", 'FATAL:  database "x" does not exist', StoreRefused, "createdb"),
        ("", 'FATAL:  role "x" does not exist', StoreRefused, "createuser"),
        ("", 'FATAL:  no pg_hba.conf entry for host "::1"', StoreRefused, "pg_hba"),
        ("", "server does not support SSL, but SSL was required", StoreRefused, "sslmode"),
        (
            "",
            'invalid integer value "hunter2" for connection option "port"',
            StoreRefused,
            "options",
        ),
        ("", 'connection is bad: invalid sslmode value: "hunter2"', StoreRefused, "options"),
        ("", 'invalid port number: "hunter2"', StoreRefused, "options"),
        ("", 'FATAL:  invalid value for parameter "statement_timeout": "hunter2"', StoreRefused, "options"),
        ("", 'FATAL:  unrecognized configuration parameter "hunting"', StoreRefused, "options"),
        ("", "could not match 2 port numbers to 1 hosts", StoreRefused, "options"),
        ("53300", "sorry, too many clients already", StoreUnavailable, "max_connections"),
        ("53100", "could not extend file: No space left on device", StoreUnavailable, "disk"),
        ("42501", "permission denied for table penstock_job", StoreRefused, "GRANT"),
        ("25006", "cannot execute UPDATE in a read-only transaction", StoreUnavailable, "primary"),
        ("57014", "canceling statement due to statement timeout", StoreTimeout, "narrows a list"),
        ("57014", "storniere Anfrage", StoreTimeout, "statement_timeout"),
        ("55P03", "canceling statement due to lock timeout", StoreTimeout, "pg_locks"),
        ("", "wait timeout expired", StoreTimeout, "statement_timeout"),
    ],
)
def test_what_postgres_says(state: str, text: str, kind: type[StoreUnavailable], fix: str) -> None:
    error = explain(state, text, "name at host", operational=True)
    assert type(error) is kind
    assert fix in error.fix and (text in error.message or fix == "options")
    assert "hunter2" not in str(error)


def test_an_option_that_the_driver_itself_does_not_take_is_no_value_of_a_call(tmp_path: Path) -> None:
    url = f"postgresql://u@/x?host={tmp_path}&connect_timeout=hunter2"
    with pytest.raises(StoreRefused, match="connect_timeout") as caught:
        Database(url).check()
    assert "hunter2" not in str(caught.value)


def test_a_defect_stays_a_defect() -> None:
    assert explain("42601", "syntax error", "name at host", operational=False) is None
