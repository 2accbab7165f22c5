"""Services started before their servers, as after the reboot of a machine; and commands that wait for a worker."""

from __future__ import annotations

import json
import signal
import time

import pytest

from penstock_cli import reminder
from tests.fixtures.cli import QUICK, MakePenstock, Penstock
from tests.fixtures.postgres import PostgresServer


def test_services_wait_for_a_database_that_comes_late(
    make_penstock: MakePenstock, postgres_server: PostgresServer, postgres_url: str, broker_url: str, namespace: str
) -> None:
    env = QUICK | {
        "PENSTOCK_DATABASE_URL": postgres_url,
        "PENSTOCK_BROKER_URL": broker_url,
        "PENSTOCK_NAMESPACE": namespace,
    }
    penstock = make_penstock(env)
    postgres_server.stop()
    commands = (("dispatcher",), ("up", "my_models", "--no-dashboard"), ("worker", "my_models", "--name", "late"))
    dispatcher, up, worker = services = [penstock.start(*command) for command in commands]
    try:
        for service in services:
            line = service.says("waiting for the database")
            assert "cannot be used" in line, "it says why"
        assert "fix" in json.loads(dispatcher.says('"tries": 2'))
        for service, number, status in ((dispatcher, signal.SIGTERM, 0), (up, signal.SIGINT, 130)):
            began = time.monotonic()
            assert service.stop(number) == status, service.text
            # No try lasts longer than a second or two; the rest is for a busy machine.
            assert time.monotonic() - began < 15
            assert "Traceback" not in service.text
        postgres_server.start()
        worker.says("the database answers")
        worker.says("worker ready")
        assert worker.stop(signal.SIGTERM) == 0, worker.text
    finally:
        for service in services:
            service.close()
            postgres_server.start()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PENSTOCK_DATABASE_URL", "postgresql://nobody_of_this_name:hunter2@{folder}/postgres", "createuser"),
        ("PENSTOCK_DATABASE_URL", "postgresql://postgres:hunter2@{folder}/nothing_of_this_name", "createdb"),
        ("PENSTOCK_DATABASE_URL", "postgresql://postgres:hunter2@{folder}/postgres", "penstock db upgrade"),
        ("PENSTOCK_BROKER_URL", "{broker}?virtual_host=99999", "PENSTOCK_BROKER_URL"),
    ],
)
def test_what_waiting_does_not_mend_is_told_at_once(
    penstock: Penstock, postgres_server: PostgresServer, broker_url: str, sqlite_url: str, variable: str, value: str,
    says: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tests.fixtures.cli.OWN_PROCESS", ())
    socket = broker_url.partition("?")[0]
    text = value.format(folder=str(postgres_server.folder).replace("/", "%2F"), broker=socket)
    env = {"PENSTOCK_DATABASE_URL": sqlite_url, "PENSTOCK_BROKER_URL": broker_url, variable: text}
    commands: list[tuple[str, ...]] = [("worker", "my_models")]
    if variable == "PENSTOCK_BROKER_URL":  # it does not wait for one, so that is another way
        commands.append(("dispatcher",))
    for command in commands:
        ended = penstock(*command, env=env)
        assert ended.status == 3, ended.err
        assert "hunter2" not in ended.err and "waiting" not in ended.err
    if variable == "PENSTOCK_DATABASE_URL":
        assert says in ended.err


@pytest.mark.parametrize("command", ["run", "wait", "stream", "batch"])
def test_a_command_that_waits_says_so_again(
    penstock: Penstock, broker_url: str, sqlite_url: str, namespace: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reminder, "FIRST_S", 0.05)
    said: list[str] = []

    def stop_after_two(self: reminder.Reminder, quiet_s: float) -> None:
        _, text = self._look()
        said.append(text)
        if len(said) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(reminder.Reminder, "_say", stop_after_two)
    env = {
        "PENSTOCK_DATABASE_URL": sqlite_url, "PENSTOCK_BROKER_URL": broker_url, "PENSTOCK_NAMESPACE": namespace,
        "PENSTOCK_MODELS": "my_models",
    }  # fmt: skip
    (penstock.folder / "in.jsonl").write_text("1\n2\n")
    if command == "run":
        ended = penstock("run", "double", "1", env=env)
    elif command == "batch":
        ended = penstock("batch", "run", "-i", "in.jsonl", "-o", "out.jsonl", "--model", "double", env=env)
    else:
        id = penstock("submit", "double", "1", env=env).out.strip()
        ended = penstock("job", command, id, env=env)
    assert ended.status == 130, ended.err
    assert "no worker serves 'double'" in said[0]
