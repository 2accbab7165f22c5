"""Celery's own integration suite, in several worlds: what differs from a stock worker, and nothing else.

``python tests/compat/celery_suite.py CELERY [--world NAME …] [-k EXPRESSION] [--json FILE]``

``CELERY`` (or ``CELERY_SOURCE``) is where Celery's tests are, which its wheel does not bring: a checkout, an unpacked
or packed source distribution, or a Git directory that has the tag of the installed version. What came out, and why, is
in ``docs/celery-compatibility.md``. Needs a Redis server program, as the tests do; a world takes 10 to 25 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import celery
import redis

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from penstock.errors import PenstockError  # noqa: E402
from penstock.transport.embedded import find_server  # noqa: E402
from tests.fixtures.ports import free_port  # noqa: E402

#: The worlds, in the order of a report. ``solo`` tells what is our worker's from what is any solo pool's.
WORLDS = {
    "stock": "Celery's worker, prefork pool, kombu's transport",
    "solo": "Celery's worker, solo pool, kombu's transport",
    "transport": "Celery's worker, prefork pool, on our transport",
    "penstock": "our worker: simple tasks of the suite are models, the others run in its solo pool",
}
SUITES = ("test_canvas.py", "test_tasks.py")
#: What the suites import beside themselves.
NEEDED = ("__init__.py", "canvas_helpers.py", "skip.py", "integration")
#: As Celery's own runs do (5 times there), a test that fails is tried again: some of them race.
TRIES = 3
#: Exit status when Celery's tests cannot be had.
EX_UNAVAILABLE = 69

_INI = """[pytest]
addopts = --strict-markers -p celery.contrib.pytest -p worlds -p no:cacheprovider
python_classes = test_*
xfail_strict = true
timeout = 240
markers =
    flaky
    timeout
    amqp
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("celery", nargs="?", default=os.environ.get("CELERY_SOURCE"), metavar="CELERY")
    parser.add_argument("--world", action="append", choices=list(WORLDS), help="only this one (repeatable)")
    parser.add_argument("-k", dest="only", default="", help="only tests that match, as pytest's -k")
    parser.add_argument("--json", type=Path, help="write the outcome of every test there")
    options = parser.parse_args(argv)
    worlds = options.world or list(WORLDS)
    outcomes: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="celery-suite-") as folder:
        try:
            unpack(options.celery, Path(folder))
            find_server()
        except (Unavailable, PenstockError) as error:
            print(f"cannot run Celery's suite: {error}", file=sys.stderr)
            return EX_UNAVAILABLE
        for world in worlds:
            start = time.monotonic()
            outcomes[world] = run(world, Path(folder), options.only)
            counts = Counter(outcome.split(":")[0] for outcome in outcomes[world].values())
            took = time.monotonic() - start
            print(f"{world}: {dict(counts)} in {took:.0f} s ({WORLDS[world]})", flush=True)
            if options.json:
                options.json.write_text(json.dumps({"celery": celery.__version__, "outcomes": outcomes}, indent=1))
    report(outcomes)
    return 0


class Unavailable(Exception):
    """Celery's tests cannot be had."""


def unpack(source: str | None, folder: Path) -> None:
    """Copy the suites to ``folder/t``; nothing of Celery itself, so that the installed one is tested."""
    version = celery.__version__
    hint = (
        f"name a checkout or source distribution of celery {version}: "
        f"`pip download --no-deps --no-binary :all: celery=={version}`"
    )
    if not source:
        raise Unavailable(hint)
    path = Path(source)
    if not path.exists():
        raise Unavailable(f"there is no {path}; {hint}")
    if path.is_file():
        if not tarfile.is_tarfile(path):
            raise Unavailable(f"{path} is no archive; {hint}")
        with tarfile.open(path) as archive:
            archive.extractall(folder / "source", filter="data")
        (path,) = (folder / "source").iterdir()
    elif not (path / "t" / "integration").is_dir():
        _from_git(path, folder / "source", version, hint)
        path = folder / "source"
    found = path / "celery" / "__init__.py"
    if found.is_file() and f"__version__ = '{version}'" not in found.read_text():
        raise Unavailable(f"{source} is another version than the installed one; {hint}")
    (folder / "t").mkdir()
    for name in NEEDED:
        part = path / "t" / name
        if part.is_dir():
            shutil.copytree(part, folder / "t" / name)
        elif part.is_file():
            shutil.copy(part, folder / "t" / name)
    if not all((folder / "t" / "integration" / name).is_file() for name in SUITES):
        raise Unavailable(f"{source} has no t/integration; {hint}")
    (folder / "pytest.ini").write_text(_INI)


def _from_git(path: Path, into: Path, version: str, hint: str) -> None:
    into.mkdir()
    archive = into / "t.tar"
    command = ["git", "-C", str(path), "archive", "-o", str(archive), f"v{version}", "t", "celery/__init__.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{path} has no tag v{version} ({done.stderr.strip()}); {hint}")
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")


def run(world: str, folder: Path, only: str) -> dict[str, str]:
    """The outcome of every test in one world."""
    outcomes: dict[str, str] = {}
    names = [f"t/integration/{name}" for name in SUITES]
    for trial in range(TRIES):
        with server(folder / f"redis-{world}-{trial}") as port:
            found = _pytest(world, folder, port, names, only)
        if not found and not trial:
            raise SystemExit(f"{world}: pytest has reported nothing")
        if not found:  # what the earlier tries have found is worth an hour
            print(f"{world}: try {trial + 1} has reported nothing", file=sys.stderr, flush=True)
            break
        for test, outcome in found.items():
            again = trial and outcome == "passed"
            outcomes[test] = f"passed: try {trial + 1}" if again else outcome
        names = [test for test, outcome in outcomes.items() if outcome.startswith("failed")]
        only = ""
        if not names:
            break
    return outcomes


def _pytest(world: str, folder: Path, port: int, names: Sequence[str], only: str) -> dict[str, str]:
    url = f"redis://127.0.0.1:{port}/0"
    home = folder / f"home-{world}-{port}"
    home.mkdir()
    xml = home / "report.xml"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")} | {
        "TEST_BROKER": url,
        "TEST_BACKEND": url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
        "WORKER_LOGLEVEL": "INFO",  # as Celery's own runs have it: some tests read the log
        "COMPAT_WORLD": world,
        "COMPAT_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(folder)]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(folder / "pytest.ini"), f"--rootdir={folder}"]
    command += [f"--junitxml={xml}", *(["-k", only] if only else []), *names]
    with (home / "log").open("w") as log:
        done = subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, check=False)
    if not xml.exists():  # the process of the tests, and of the worker, has died
        print(
            f"pytest ended with status {done.returncode}\n",
            (home / "log").read_text()[-4000:],
            file=sys.stderr,
            flush=True,
        )
        return {}
    return dict(_outcomes(xml))


def _outcomes(xml: Path) -> Iterator[tuple[str, str]]:
    for case in ElementTree.parse(xml).iter("testcase"):
        module, _, group = (case.get("classname") or "").partition(".test_")[2].partition(".")
        test = f"t/integration/test_{module}.py::{group + '::' if group else ''}{case.get('name')}"
        outcome = "passed"
        for child in case:
            if child.tag in ("failure", "error"):
                outcome = f"failed: {(child.get('message') or '').strip().splitlines()[:1]}"
            elif child.tag == "skipped":
                outcome = "xfailed" if child.get("type") == "pytest.xfail" else "skipped"
        yield test, outcome


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """An empty Redis on a port of loopback: the suite can name nothing else."""
    folder.mkdir()
    port = free_port()
    command = [str(find_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        with redis.Redis(port=port) as client:
            until = time.monotonic() + 30
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > until or process.poll() is not None:
                        raise
                    time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def report(outcomes: dict[str, dict[str, str]]) -> None:
    """Every test whose outcome is not the same in all worlds, or that failed in each."""
    worlds = list(outcomes)
    print(f"\ncelery {celery.__version__}; tests that do not pass everywhere:")
    for test in sorted({test for found in outcomes.values() for test in found}):
        row = [outcomes[world].get(test, "absent") for world in worlds]
        kinds = [outcome.split(":")[0] for outcome in row]
        if "failed" in kinds or len(set(kinds)) > 1:
            print(test)
            for world, outcome in zip(worlds, row, strict=True):
                print(f"    {world:10} {outcome[:200]}")


if __name__ == "__main__":
    sys.exit(main())
