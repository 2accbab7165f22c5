"""The house's floors: imports go down only, and the pure ones touch neither clocks, chance nor libraries.

A walk over the syntax trees; nothing is imported. Imports inside functions count for the floors: they are late for
speed, not to hide a dependency. So do imports under ``if TYPE_CHECKING``, except that within one package a part may
name the type of its whole (a handle that of its client) without that being a circle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "penstock": ROOT / "platform",
    "penstock_migrations": ROOT / "migrations",
    "penstock_worker": ROOT / "workers",
    "penstock_cli": ROOT / "cli",
}

#: Longest prefix wins. A module imports from its own floor and those below it.
FLOORS = {
    "penstock.errors": 0,
    "penstock.address": 0,
    "penstock.arguments": 0,
    "penstock.private": 0,
    "penstock.usercode": 0,
    "penstock.clock": 0,
    "penstock.job": 0,
    "penstock.lane": 0,
    "penstock.itemtypes": 0,
    "penstock.own": 0,
    "penstock.plain": 0,
    "penstock.payload": 0,
    "penstock.codec": 0,
    "penstock.results": 0,
    "penstock.jsontext": 0,
    "penstock.urltext": 0,
    "penstock.itemschema": 0,
    "penstock.valuetypes": 0,
    "penstock.calltypes": 0,
    "penstock.model": 0,
    "penstock.options": 0,
    "penstock.tracing": 0,
    "penstock.functions": 0,
    "penstock.using": 0,
    "penstock.stepwise": 0,
    "penstock.policy": 1,
    "penstock.pipelines": 1,
    # The pure half of the load generator, and the simulator, which runs the policies.
    "penstock.loadgen.arrivals": 1,
    "penstock.loadgen.simulator": 1,
    "penstock.loadgen.tally": 1,
    "penstock.bounds": 2,
    "penstock.sources": 2,
    "penstock.poolsettings": 2,
    "penstock.settings": 2,
    "penstock.inventory": 2,
    "penstock.waiting": 2,
    "penstock.service": 2,
    "penstock.views": 3,
    "penstock.processes": 2,
    "penstock.registry": 2,
    "penstock.torch_model": 2,
    "penstock.weights": 2,
    "penstock.store": 2,
    "penstock.transport": 2,
    "penstock.telemetry": 2,
    "penstock.app": 3,
    "penstock.routes": 3,
    "penstock.signatures": 3,
    "penstock.eager": 3,
    "penstock.dispatch": 3,
    "penstock.webhooks": 3,
    "penstock.autoscaler": 3,
    "penstock.client": 4,
    "penstock.dashboard": 4,
    "penstock.loadgen": 4,
    "penstock.testing": 4,
    # Migrations are data beside the store's code: they may see its tables and settings, and nothing above.
    "penstock_migrations": 3,
    "penstock_worker": 5,
    "penstock_cli": 6,
}
#: The package itself gathers the public names of every floor, lazily; anybody may import those.
FACADE = "penstock"
PURE = 1

#: Upward imports that are known and meant, each with its reason. They must be late (inside a function).
ALLOWED_UP = {
    # `.s()` on a model gives a Celery signature; producers that never call it never import celery.
    ("penstock.using", "penstock.signatures"),
    ("penstock.model", "penstock.eager"),
    # A Celery program that is eager runs a pipeline as tests do.
    ("penstock.eager", "penstock.testing"),
    # The canvas of a pipeline is made of such signatures.
    ("penstock.pipelines.writing.pipeline", "penstock.signatures"),
}

LIBRARIES_ABOVE_PURE = {"celery", "kombu", "redis", "sqlmodel", "sqlalchemy", "torch"}
CLOCKS_AND_CHANCE = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.sleep",
    "datetime.now",
    "datetime.utcnow",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.date.today",
    "date.today",
    "os.urandom",
    "uuid.uuid4",
    "uuid.uuid1",
    "secrets.*",
    "random.*",
    "clock.*",
    "penstock.clock.now",
    "penstock.clock.monotonic_s",
}
#: Where time and chance enter: `clock` is the clock, and ids are made of both.
MAY_CALL_CLOCK = {("penstock.clock", "*"), ("penstock.job", "new_id")}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def floor(module: str) -> int | None:
    """The module's floor, or ``None`` for the facade and for foreign modules."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (found := FLOORS.get(".".join(parts[:end]))) is not None:
            return found
    return None


@dataclass(frozen=True, slots=True)
class Import:
    """One import: its target, its line, whether it is inside a function, whether it is for type checkers only."""

    target: str
    line: int
    late: bool
    typing: bool


def imports(name: str, path: Path) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, late, typing)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    stem = ".".join(package.split(".")[: len(package.split(".")) - child.level + 1])
                    base = f"{stem}.{base}" if base else stem
                for alias in child.names:
                    full = f"{base}.{alias.name}"
                    # `from penstock.transport import keys` names a module, `from penstock.lane import Lane` does not.
                    yield Import(full if full in MODULES else base, child.lineno, late, typing)
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                yield from visit(child, late, True)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from visit(child, late or function, typing)

    yield from visit(ast.parse(path.read_text(), str(path)), late=False, typing=False)


def test_every_module_has_a_floor() -> None:
    """A new module is placed on purpose."""
    assert MODULES
    assert [name for name in MODULES if floor(name) is None and name != FACADE] == []


def test_imports_go_down_only() -> None:
    wrong = []
    for name, path in MODULES.items():
        if name == FACADE:
            continue
        here = floor(name)
        assert here is not None
        for found in imports(name, path):
            there = floor(found.target)
            if there is not None and there > here and not (found.late and (name, found.target) in ALLOWED_UP):
                wrong.append(
                    f"{path.relative_to(ROOT)}:{found.line}: floor {here} imports {found.target} of floor {there}"
                )
    assert wrong == []


def test_no_circles_between_modules() -> None:
    """Imports at module level form no circle, on any floor."""

    def package(module: str) -> str:
        return module.rpartition(".")[0]

    graph = {
        name: {
            found.target
            for found in imports(name, path)
            if found.target in MODULES
            and not found.late
            and found.target not in (name, FACADE)
            and not (found.typing and package(found.target) == package(name))
        }
        for name, path in MODULES.items()
        if name != FACADE
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for target in sorted(graph[name]):
                walk(target, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


#: From which other rooms of the worker each one imports; there is no circle among them.
ROOMS: dict[str, set[str]] = {
    "canvas": set(),
    "report": set(),
    "schedule": {"canvas", "report"},
    "execute": {"canvas", "report"},
    "models": {"canvas", "schedule"},
    "steps": {"canvas", "report", "schedule", "execute"},
    "boot": {"canvas", "execute"},
    "zygote": set(),
}
#: What stands beside the rooms, and may be imported by them.
SHARED = {"item", "parent", "ceiling"}
SHARED_WITH_BOOT = SHARED | {"serving"}


def test_rooms_of_the_worker_know_few_others() -> None:
    worker = FOLDERS["penstock_worker"] / "penstock_worker"
    assert {path.name for path in worker.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)
    wrong = []
    for name, path in MODULES.items():
        room = name.split(".")[1] if name.count(".") > 1 else None
        if not name.startswith("penstock_worker.") or room is None:
            continue
        allowed = {room} | ROOMS[room] | (SHARED_WITH_BOOT if room == "boot" else SHARED)
        for found in imports(name, path):
            parts = found.target.split(".")
            if parts[0] == "penstock_worker" and (len(parts) < 2 or parts[1] not in allowed):
                wrong.append(f"{path.relative_to(ROOT)}:{found.line}: {room} imports {found.target}")
    assert wrong == []


def test_platform_never_imports_worker_or_cli() -> None:
    """Not even late: the wheel's SDK half stands alone."""
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line}: {found.target}"
        for name, path in MODULES.items()
        if name.split(".")[0] == "penstock"
        for found in imports(name, path)
        if found.target.split(".")[0] in {"penstock_worker", "penstock_cli"}
    ]
    assert wrong == []


PURE_MODULES = sorted(name for name in MODULES if (f := floor(name)) is not None and f <= PURE)


@pytest.mark.parametrize("name", PURE_MODULES)
def test_pure_floors_import_no_heavy_library(name: str) -> None:
    """Types may be named under TYPE_CHECKING; nothing is imported when the module is."""
    path = MODULES[name]
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line}: {found.target}"
        for found in imports(name, path)
        if found.target.split(".")[0] in LIBRARIES_ABOVE_PURE and not found.typing
    ]
    assert wrong == []


@pytest.mark.parametrize("name", PURE_MODULES)
def test_pure_floors_read_no_clock_and_no_chance(name: str) -> None:
    """``now`` and ``rng`` come in as arguments; a ``random.Random`` may be *named*, as a type."""
    path = MODULES[name]
    tree = ast.parse(path.read_text())
    aliases = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def calls(node: ast.AST, function: str) -> Iterator[tuple[str, int, str]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                called = ast.unparse(child.func)
                head, _, rest = called.partition(".")
                yield (f"{aliases.get(head, head)}{'.' + rest if rest else ''}", child.lineno, inside)
            yield from calls(child, inside)

    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {called}()"
        for called, line, function in calls(tree, "")
        if (called in CLOCKS_AND_CHANCE or f"{called.split('.')[0]}.*" in CLOCKS_AND_CHANCE)
        and not {(name, "*"), (name, function)} & MAY_CALL_CLOCK
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", sorted({path.name for path in FOLDERS.values()}))
def test_top_folders_are_not_packages(folder: str) -> None:
    """``platform/__init__.py`` would shadow the standard library's ``platform`` and break pytest at once."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_are_not_packages() -> None:
    """``--import-mode=importlib`` needs none, and one would make same-named test files clash."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
