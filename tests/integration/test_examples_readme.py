"""What the README says to type, typed: its model, its commands with their output, its Python."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each ``$ command`` of the README with the output that it shows."""
    text = "".join(blocks("console"))
    return [(line, output) for line, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    path = os.pathsep.join([str(BIN), kept.get("PATH", os.defpath)])
    # No colours and no wrapping, whatever the terminal of the tests.
    return kept | {"PENSTOCK_HOME": str(folder / "home"), "PATH": path, "NO_COLOR": "1", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the README's model in it, served by ``penstock up``."""
    folder = tmp_path_factory.mktemp("readme")
    (model,) = [block for block in blocks("python") if block.startswith("# my_models.py")]
    (folder / "my_models.py").write_text(model)
    (start,) = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("penstock up")]
    log = folder / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            [*start.split(), "--no-dashboard", "--json"],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
        )
    try:
        assert up.stdout is not None
        # Printed when everything serves; nothing comes when it ends before that.
        if not up.stdout.readline():
            pytest.fail(f"`{start}` did not get ready:\n{log.read_text()}")
        yield folder
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)


@pytest.mark.parametrize(("command", "shown"), commands(), ids=[command for command, _ in commands()])
def test_commands_print_what_is_shown(folder: Path, command: str, shown: str) -> None:
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    pattern = ".*".join(re.escape(part) for part in shown.split("…"))
    assert re.fullmatch(pattern, done.stdout), done.stdout


@pytest.mark.parametrize(
    "code",
    [block for block in blocks("python") if not block.startswith("# my_models.py")],
    ids=lambda code: code.strip().splitlines()[0],
)
def test_python_runs(folder: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
