"""What ``penstock up`` runs: a pure decision."""

from __future__ import annotations

import sys

from penstock.processes.service import Service

#: Stages are stopped in this order, each one gone before the next is asked.
WORKERS, DISPATCHER, BROKER = 0, 1, 2


def dispatcher_service() -> Service:
    """Relay and reconciler."""
    return Service(name="dispatcher", argv=_penstock("dispatcher"), stage=DISPATCHER)


def dashboard_service(host: str, port: int) -> Service:
    """Flower."""
    argv = (*_penstock("dashboard"), "--host", host, "--port", str(port))
    return Service(name="dashboard", argv=argv, stage=WORKERS)


def _penstock(command: str) -> tuple[str, ...]:
    # By module, not by script: the script's folder need not be on PATH, and `-m` puts the working folder on
    # sys.path, where the user's models are.
    return (sys.executable, "-m", "penstock_cli", command)
