"""The command line as a process, with nothing running."""

from __future__ import annotations

import resource
import subprocess
import sys

from tests.fixtures.cli import Penstock


def test_help_answers_at_once() -> None:
    """In processor time, best of several: the machine may be busy. An empty interpreter's start is not ours."""

    def best(*argv: str) -> float:
        took = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *argv], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(took)

    assert best("-m", "penstock_cli", "--help") - best("-c", "pass") < 0.2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom penstock_cli.main import run\nassert run(['--help']) == 0\n"
        "heavy = {'celery', 'kombu', 'redis', 'sqlalchemy', 'pydantic', 'rich', 'torch', 'flower'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_arguments_shows_the_help(penstock: Penstock) -> None:
    ended = penstock()
    assert ended.status == 2 and "Usage: penstock" in ended.err and ended.out == ""


def test_version(penstock: Penstock) -> None:
    from penstock import __version__

    assert penstock("--version").out == f"penstock {__version__}\n"


def test_options_count_before_and_after_the_command(penstock: Penstock) -> None:
    for args in (("--json", "config", "show"), ("config", "--json", "show"), ("config", "show", "--json")):
        found = penstock(*args, "--set", "lease.ttl_s=7").json()
        assert found["lease.ttl_s"] == {"value": 7.0, "source": "flag"}
        assert found["home"]["source"] == "PENSTOCK_HOME"


def test_every_command_has_help(penstock: Penstock) -> None:
    from penstock_cli.main import COMMANDS

    for section in COMMANDS.values():
        for name in section:
            ended = penstock(name, "--help")
            assert ended.status == 0, (name, ended.err)
            assert "--json" in ended.out


def test_config_show_names_the_sources(penstock: Penstock) -> None:
    (penstock.folder / "penstock.toml").write_text("log_level = 'warning'\n")
    out = penstock("config", "show").out
    line = next(line for line in out.splitlines() if line.startswith("log_level"))
    assert line.split()[1:3] == ["warning", "penstock.toml"]


def test_doctor_without_anything_says_what_to_start(penstock: Penstock) -> None:
    ended = penstock("doctor")
    assert ended.status == 3
    assert ended.out.count("fix: `penstock up`") == 1 == ended.out.count("penstock db upgrade"), ended.out
    assert "dispatcher: not asked: the broker is away" in ended.out and "workers: not asked: the database" in ended.out
    assert "Traceback" not in ended.out + ended.err


def test_doctor_tries_the_results_of_plain_tasks_where_it_is_told_of_them(penstock: Penstock) -> None:
    def found(url: str) -> list[tuple[str, str, str]]:
        env = {"PENSTOCK_CELERY__TASK_RESULT_URL": url}
        report = penstock("doctor", "--json", env=env).json()
        assert "hunter2" not in str(report)
        return [(f["status"], f["detail"], f["fix"]) for f in report["findings"] if f["name"] == "task results"]

    (penstock.folder / "results").mkdir()
    assert found("") == []
    assert found(f"file://{penstock.folder}/results") == [("ok", f"file://{penstock.folder}/results can be read", "")]
    [(status, detail, fix)] = found("db+nosuch://user:hunter2@host/name")
    assert (status, "nosuch" in detail, "TASK_RESULT_URL" in fix) == ("error", True, True)
    [(status, detail, fix)] = found("rpc://")
    assert (status, "rpc://" in detail, "result_backend" in fix) == ("warning", True, True)


def test_db_upgrade_makes_the_embedded_database(penstock: Penstock) -> None:
    none = penstock("db", "current")
    assert (none.status, none.out) == (3, "none\n")
    made = penstock("db", "upgrade")
    assert made.status == 0, made.err
    assert penstock("db", "current").out == made.out


def test_the_dashboard_is_not_opened_to_strangers(penstock: Penstock) -> None:
    ended = penstock("dashboard", "--host", "0.0.0.0")
    assert ended.status == 2
    assert "PENSTOCK_DASHBOARD__BASIC_AUTH" in ended.err
