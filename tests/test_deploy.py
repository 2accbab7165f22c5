"""``compose.yaml`` and ``deploy/`` fit the program: commands exist, settings are known, secrets load."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from penstock.functions import POOL
from penstock.settings import Settings
from penstock.webhooks import load_signer
from penstock_cli.context import App
from penstock_cli.main import cli

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("penstock")}


@pytest.mark.parametrize("name", OURS)
def test_commands_and_their_options_exist(name: str) -> None:
    command: click.Command | None = cli
    rest = list(OURS[name]["command"])
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), rest.pop(0))
    assert command is not None
    command.make_context(name, rest, parent=click.Context(cli, obj=App()))  # raises for an option that there is not


@pytest.mark.parametrize("name", OURS)
def test_settings_are_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in OURS[name]["environment"].items():
        default = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)
        monkeypatch.setenv(variable, default)
    monkeypatch.delenv("PENSTOCK_SECRETS_DIR")  # there is none on this machine
    settings = Settings.load()
    assert settings.broker_url == "redis://redis:6379/0"
    assert (ROOT / "examples" / f"{settings.models[0]}.py").exists()


def test_secrets_are_written_once_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "deploy" / "secrets.sh", tmp_path)
    outputs = {subprocess.check_output(["sh", str(tmp_path / "secrets.sh")]) for _ in range(2)}
    assert len(outputs) == 1, "what exists is kept"
    folder = tmp_path / "secrets"
    assert folder.stat().st_mode & 0o077 == 0
    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert {path.name for path in folder.iterdir()} == named

    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(folder))
    settings = Settings.load()
    password = (folder / "postgres_password").read_text()
    assert settings.database_url == f"postgresql://penstock:{password}@postgres/penstock"
    assert settings.dashboard.basic_auth is not None
    assert load_signer(settings)


WORKERS = [name for name, service in OURS.items() if service["command"][0] == "worker"]


def test_functions_have_a_worker_beside_that_of_the_gpu() -> None:
    assert [name for name in WORKERS if OURS[name]["command"] == ["worker", "--pool", POOL]] == ["worker-functions"]


def test_a_worker_has_longer_to_stop_than_it_takes_to_drain() -> None:
    for name in WORKERS:
        grace_s = float(OURS[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > Settings().worker.drain_s


DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def test_no_package_index_is_named() -> None:
    """pip looks where it is configured to; who wants another index says so when building."""
    for text in (DOCKERFILE, (ROOT / "compose.yaml").read_text(), (ROOT / "pyproject.toml").read_text()):
        assert not re.search(r"https?://\S*(pypi|pytorch|simple|whl)", text)
        assert "-index-url=" not in text
    assert re.search(r"^ARG PACKAGE_INDEX=$", DOCKERFILE, re.MULTILINE), "empty by default"
    builds = [service["build"] for service in COMPOSE["services"].values() if "build" in service]
    declared = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for build in builds:
        assert set(build["args"]) <= declared
        assert re.fullmatch(r"\$\{PACKAGE_INDEX\w*:-\}", build["args"]["PACKAGE_INDEX"])


@pytest.mark.parametrize(("index", "options"), [("", []), ("https://x/y", ["--extra-index-url", "https://x/y"])])
def test_the_index_is_an_option_of_pip_or_nothing(index: str, options: list[str]) -> None:
    (option,) = re.findall(r"\$\{PACKAGE_INDEX:.*?\}", DOCKERFILE)
    done = subprocess.check_output(["sh", "-c", f"printf '%s\\n' {option}"], env={"PACKAGE_INDEX": index}, text=True)
    assert done.split() == options


def test_the_image_has_what_its_roles_need() -> None:
    """Metrics included: a worker that is told to serve them must be able to."""
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert {"worker", "dashboard", "metrics", "postgres"} <= set(extras.split(","))
