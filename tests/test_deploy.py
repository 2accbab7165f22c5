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


def test_a_worker_has_longer_to_stop_than_it_takes_to_drain() -> None:
    for name in ("worker", "worker-gpu"):
        grace_s = float(OURS[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > Settings().worker.drain_s
