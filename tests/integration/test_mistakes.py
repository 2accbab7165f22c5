"""A user's mistake gives a short message that says what to type, an exit status, and neither a trace nor a hang."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import Client
from penstock.errors import NotSerializable
from tests.fixtures.cli import AT_ONCE_S, PROCESS_AT_ONCE_S, QUICK, Ended, MakePenstock, Penstock


def explained(ended: Ended, status: int, *words: str, lines: int = 3, within_s: float = AT_ONCE_S) -> None:
    """The promise of this file."""
    assert ended.status == status, ended
    assert "Traceback" not in ended.err + ended.out
    message = ended.err.strip().splitlines()
    assert any(line.startswith("error: ") for line in message), ended.err
    assert any("fix: " in line for line in message), ended.err
    assert len(message) <= lines, ended.err
    for word in words:
        assert word in ended.err, ended.err
    assert ended.took_s < within_s, f"took {ended.took_s:.1f} s"


@pytest.fixture(scope="module")
def migrated(make_penstock: MakePenstock) -> Penstock:
    """A database, and no broker."""
    penstock = make_penstock()
    assert penstock("db", "upgrade").status == 0
    return penstock


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are accepted and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# Servers ----------------------------------------------------------------------------------------------------------


def test_broker_down(migrated: Penstock) -> None:
    explained(migrated("run", "double", "21"), 3, "broker", "penstock up")


def test_broker_down_at_an_address(migrated: Penstock) -> None:
    env = {"PENSTOCK_BROKER_URL": "redis://:hunter2@127.0.0.1:1/0"}
    ended = migrated("run", "double", "21", env=env)
    explained(ended, 3, "127.0.0.1:1", "PENSTOCK_BROKER_URL")
    assert "hunter2" not in ended.err


def test_broker_that_says_nothing(migrated: Penstock, silent: int) -> None:
    explained(migrated("run", "double", "21", env={"PENSTOCK_BROKER_URL": f"redis://127.0.0.1:{silent}/0"}), 3)


def test_broker_down_and_a_job_is_submitted_all_the_same(migrated: Penstock) -> None:
    ended = migrated("submit", "double", "21", env={"PENSTOCK_MODELS": "my_models"})
    assert ended.status == 0, ended.err
    warning, _ = ended.err.splitlines()
    assert warning.startswith("warning: the broker does not answer")
    assert migrated("job", "get", ended.out.strip(), "--json").json()["status"] == "accepted"


def test_the_command_that_webhook_listen_shows_works(migrated: Penstock) -> None:
    running = migrated.start("webhook", "listen", "--port", "0")
    try:
        shown = running.says("try: ").removeprefix("try: ")
        assert any("penstock up" in line and "ALLOW_PRIVATE=true" in line for line in running.lines)
        typed = shown.replace("MODEL INPUT", "double 21").replace("penstock ", f"{sys.executable} -m penstock_cli ", 1)
        done = subprocess.run(
            ["bash", "-c", typed],
            capture_output=True,
            text=True,
            cwd=migrated.folder,
            env=migrated.env | {"PENSTOCK_MODELS": "my_models"},
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    finally:
        running.close()


@pytest.mark.parametrize("command", [("run", "double", "21"), ("job", "list"), ("model", "list"), ("queue", "stats")])
def test_database_down(migrated: Penstock, command: tuple[str, ...]) -> None:
    env = {"PENSTOCK_DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/jobs"}
    ended = migrated(*command, env=env)
    explained(ended, 3, "database")
    assert "hunter2" not in ended.err


def test_database_that_says_nothing(migrated: Penstock, silent: int) -> None:
    ended = migrated("job", "list", env={"PENSTOCK_DATABASE_URL": f"postgresql://me@127.0.0.1:{silent}/jobs"})
    explained(ended, 3, "database")


def test_database_file_in_a_folder_that_is_not_there(migrated: Penstock) -> None:
    explained(migrated("job", "list", env={"PENSTOCK_DATABASE_URL": "sqlite:////nowhere/at/all.db"}), 3)


@pytest.mark.parametrize("command", [("run", "double", "21"), ("submit", "double", "21"), ("job", "list")])
def test_schema_not_migrated(penstock: Penstock, command: tuple[str, ...]) -> None:
    explained(penstock(*command), 3, "penstock db upgrade")


@pytest.mark.parametrize(
    ("home", "fix"),
    [
        ("new home", "`penstock up my_models --home '"),
        ("new home", "`penstock db upgrade --home '"),
        ("/proc/nope", "/proc/nope cannot be made"),
        ("/dev/null/x", "/dev/null/x cannot be made"),
    ],
)
def test_the_fix_for_a_new_home_repeats_its_flag(penstock: Penstock, home: str, fix: str) -> None:
    explained(penstock("job", "list", "--home", home), 3, fix)


def test_up_does_not_migrate_a_foreign_database(penstock: Penstock) -> None:
    url = f"sqlite:///{penstock.folder / 'mine.db'}"
    ended = penstock("up", "--no-dashboard", "--database-url", url)
    explained(ended, 3, "penstock up --migrate", lines=4, within_s=PROCESS_AT_ONCE_S)


@pytest.mark.parametrize("command", ["worker", "dispatcher"])
def test_services_say_what_they_lack(penstock: Penstock, command: str) -> None:
    ended = penstock(command, env={"PENSTOCK_MODELS": "my_models"})
    explained(ended, 3, within_s=PROCESS_AT_ONCE_S)


def test_a_dashboard_says_that_it_waits_for_a_broker(penstock: Penstock) -> None:
    running = penstock.start("dashboard")
    try:
        assert "`penstock up` starts the embedded broker" in running.says("waiting for the broker")
        assert running.stop(signal.SIGTERM) == 0, running.text
    finally:
        running.close()


# Requests ---------------------------------------------------------------------------------------------------------


def test_unknown_model(up: Penstock) -> None:
    explained(up("run", "duoble", "21"), 2, "did you mean 'double'")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("queue", "purge", "duoble", "--yes"), "did you mean 'double'"),
        (("queue", "stats", "--model", "duoble"), "did you mean 'double'"),
        (("job", "list", "--model", "duoble"), "did you mean 'double'"),
        (("job", "list", "--before", "zz"), "is no job's id"),
        (("job", "list", "--lane", "zz"), "interactive"),
    ],
)
def test_a_name_that_there_is_not_is_no_empty_answer(up: Penstock, command: tuple[str, ...], words: str) -> None:
    explained(up(*command), 2, words)


def test_unknown_model_when_none_is_known(migrated: Penstock) -> None:
    explained(migrated("submit", "double", "21"), 2, "PENSTOCK_MODELS")


def test_invalid_input_is_refused_by_a_producer_that_knows_the_model(up: Penstock) -> None:
    ended = up("run", "double", "many", env={"PENSTOCK_MODELS": "my_models"})
    explained(ended, 2, "valid integer", "penstock model show double")


def test_invalid_input_is_refused_by_what_the_workers_announced(up: Penstock) -> None:
    explained(up("run", "double", "many"), 2, "valid integer", "penstock model show double")


def test_what_the_schema_does_not_tell_is_refused_by_the_worker(up: Penstock) -> None:
    explained(up("run", "double", '"7.5"'), 1, "valid integer", "penstock job get")


def test_damaged_json(up: Penstock) -> None:
    explained(up("run", "double", '{"a": '), 2, "single quotes")


@pytest.mark.parametrize("target", ["/dev/full", "-"])
def test_a_full_disk(up: Penstock, target: str) -> None:
    (up.folder / "one.jsonl").write_text("1\n")
    command = f"{sys.executable} -m penstock_cli -q batch run -i one.jsonl --model double -o {target} --overwrite"
    done = subprocess.run(
        ["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, cwd=up.folder, env=up.env, timeout=60
    )
    explained(Ended(done.returncode, done.stdout, done.stderr, 0.0), 2, "No space left on device")


def test_text_that_cannot_be_written(up: Penstock) -> None:
    explained(up("run", "moody", "\udcff"), 2, "JSON")


def test_a_value_that_cannot_be_serialised(up: Penstock) -> None:
    with Client(home=up.home) as client, pytest.raises(NotSerializable, match="fix: "):
        client.enqueue("double", object())


def test_too_large(up: Penstock) -> None:
    explained(up("run", "moody", "x" * 2000, env={"PENSTOCK_JOB__MAX_INPUT_BYTES": "1000"}), 2, "1,000")


@pytest.mark.parametrize(
    "options",
    [
        ("--lane", "fast"),
        ("--priority", "11"),
        ("--webhook", "not a url"),
        ("--deadline", "soon"),
        ("--tag", "x"),
        ("--tenant", ""),
        ("--idempotency-key", ""),
    ],
)
def test_options_that_mean_nothing(up: Penstock, options: tuple[str, str]) -> None:
    explained(up("submit", "double", "21", *options), 2)


@pytest.mark.parametrize("command", ["get", "wait", "watch", "stream", "cancel", "retry"])
@pytest.mark.parametrize("id", ["00000000-0000-7000-8000-000000000000", "no-id"])
def test_unknown_id(up: Penstock, command: str, id: str) -> None:
    explained(up("job", command, id), 2, id)


def test_retry_of_what_succeeded(up: Penstock) -> None:
    id = up("run", "double", "1", "--json").json()["id"]
    explained(up("job", "retry", id), 2)


def test_same_key_other_body(up: Penstock) -> None:
    assert up("submit", "double", "1", "--idempotency-key", "mistake").status == 0
    explained(up("submit", "double", "2", "--idempotency-key", "mistake"), 2, "mistake")


# The command line itself ------------------------------------------------------------------------------------------


def test_misspelt_command_option_and_setting(penstock: Penstock) -> None:
    explained(penstock("sumbit"), 2, "submit")
    explained(penstock("job", "lst"), 2, "list")
    explained(penstock("run", "double", "1", "--lnae", "x"), 2, "--lane")
    explained(penstock("job", "list", env={"PENSTOCK_BROKER_ULR": "x"}), 2, "PENSTOCK_BROKER_URL")
    explained(penstock("job", "list", "--set", "lease.tl_s=3"), 2, "lease.tl_s")
    explained(penstock("job", "list", "--set", "lease"), 2, "NAME=VALUE")


def test_a_damaged_settings_file(penstock: Penstock) -> None:
    (penstock.folder / "penstock.toml").write_text("[lease\n")
    explained(penstock("job", "list"), 2, "penstock.toml")


def test_a_broker_of_another_kind(migrated: Penstock) -> None:
    explained(migrated("run", "double", "1", "--broker-url", "amqp://localhost"), 2, "redis://")


def test_a_database_of_another_kind(penstock: Penstock) -> None:
    explained(penstock("job", "list", "--database-url", "mysql://localhost/x"), 2, "postgresql")


@pytest.mark.parametrize("command", [("job", "list"), ("db", "upgrade"), ("up", "--no-dashboard"), ("doctor",)])
def test_a_home_that_cannot_be_made(penstock: Penstock, command: tuple[str, ...]) -> None:
    ended = penstock(*command, "--home", "/dev/null/home")
    assert ended.status in (2, 3), ended
    assert "/dev/null/home" in ended.err + ended.out and "fix: " in ended.err + ended.out
    assert "Traceback" not in ended.err and "fault in penstock" not in ended.err


@pytest.mark.parametrize(
    "words", [("run", "m", "1", "--bogus", "--json"), ("--json", "run", "--bogus"), ("sumbit", "--json")]
)
def test_a_wrong_command_line_as_json(penstock: Penstock, words: tuple[str, ...]) -> None:
    ended = penstock(*words)
    assert ended.status == 2
    assert json.loads(ended.err)["error"]["code"] == "usage"


def test_error_as_json(penstock: Penstock) -> None:
    ended = penstock("job", "list", "--json")
    assert ended.status == 3
    assert '"code": "schema_outdated"' in ended.err and ended.out == ""


def test_debug_shows_the_trace(penstock: Penstock) -> None:
    ended = penstock("job", "list", "--debug")
    assert ended.status == 3
    assert "Traceback" in ended.err and "fix: " in ended.err


# Models -----------------------------------------------------------------------------------------------------------

BROKEN = {
    "import": ("import nothing_like_this\n", "nothing_like_this", 2),
    "syntax": ("class (\n", "SyntaxError", 2),
    "no model": ("x = 1\n", "defines no penstock model", 2),
    "load": (
        "from penstock import Model\n"
        "class Broken(Model):\n"
        "    name = 'broken'\n"
        "    def load(self, device): raise RuntimeError('no weights here')\n"
        "    def predict(self, batch: list[int]) -> list[int]: return batch\n",
        "no weights here",
        1,
    ),
    "warm-up": (
        "from penstock import Model\n"
        "class Broken(Model):\n"
        "    name = 'broken'\n"
        "    def example(self): return 1\n"
        "    def predict(self, batch: list[int]) -> list[int]: raise RuntimeError('too cold')\n",
        "too cold",
        1,
    ),
    "exit": ("import os; os._exit(9)\n", "ended the process", 2),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_model_that_does_not_come_up(make_penstock: MakePenstock, case: str) -> None:
    code, words, status = BROKEN[case]
    penstock = make_penstock(QUICK)
    (penstock.folder / "broken.py").write_text(code)
    ended = penstock("up", "broken", "--no-dashboard")
    explained(ended, status, words, lines=4, within_s=40)


def test_a_module_that_is_not_there(penstock: Penstock) -> None:
    explained(penstock("up", "my_modles", "--no-dashboard"), 2, "my_modles", lines=5, within_s=30)


def test_a_model_that_returns_the_wrong_number(up: Penstock) -> None:
    explained(up("run", "moody", "count"), 1, "0 results", lines=4)


def test_a_model_that_raises_for_one_item(up: Penstock) -> None:
    explained(up("run", "moody", "bad"), 1, "no mood for this item")
    assert up("run", "moody", "good").json() == "GOOD"


def test_a_model_that_raises_for_all(up: Penstock) -> None:
    explained(up("run", "moody", "raise"), 1, "no mood for this batch")


def test_a_model_that_never_returns(up: Penstock) -> None:
    """Its process is ended and started again; the next job runs."""
    explained(up("run", "moody", "forever"), 1, within_s=30)
    assert up("run", "moody", "again", "--timeout", "30").json() == "AGAIN"


def test_waiting_for_nobody_ends(migrated: Penstock, up: Penstock, gate: Path) -> None:
    ended = up("run", "slow", str(gate), "--timeout", "0.2")
    explained(ended, 4, "penstock job wait", lines=5)
