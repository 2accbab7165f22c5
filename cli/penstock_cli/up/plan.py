"""What ``penstock up`` runs: a pure decision."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from penstock.functions import POOL
from penstock.processes.service import Service
from penstock_cli.up.probe import ModelInfo

#: Stages are stopped in this order, each one gone before the next is asked.
WORKERS, DISPATCHER, BROKER = 0, 1, 2


def worker_services(
    models: Sequence[ModelInfo], *, workers: int, drain_s: float, metrics_port: int | None = None
) -> list[Service]:
    """``workers`` workers for each pool that the models name.

    ``metrics_port`` is the dispatcher's; the workers have the ones behind it, or any free one where it is 0.
    """
    pools = sorted({model.pool for model in models})
    names = [(pool, f"worker-{pool}-{number}") for pool in pools for number in range(1, workers + 1)]
    return [
        Service(
            name=name,
            argv=(*_penstock("worker"), "--pool", pool, "--name", name, *_device(pool), *_metrics(metrics_port, place)),
            stage=WORKERS,
            stop_timeout_s=drain_s + 10.0,
            supervises=True,
        )
        for place, (pool, name) in enumerate(names, 1)
    ]


def _device(pool: str) -> tuple[str, ...]:
    """Functions need no device: their worker neither takes one nor loads what would look for it."""
    return ("--device", "cpu") if pool == POOL else ()


def _metrics(port: int | None, place: int) -> tuple[str, ...]:
    return () if port is None else ("--metrics-port", str(port + place if port else 0))


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
