"""What the commands that run an autoscaler share: its models, its backend, its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from penstock.autoscaler.backends.base import Backend
from penstock.autoscaler.backends.external import External
from penstock.autoscaler.backends.kubernetes import connect
from penstock.autoscaler.backends.local import MARGIN_S, Local
from penstock.autoscaler.backends.seats import Seats
from penstock.autoscaler.daemon import Autoscaler
from penstock.clock import monotonic_s
from penstock.errors import ConfigError
from penstock.inventory import machine
from penstock.processes.warm import Warm
from penstock.settings import Settings
from penstock.store import Store
from penstock_cli.childenv import child_env

if TYPE_CHECKING:
    from penstock_cli.up.probe import Found, ModelInfo

log = structlog.get_logger(__name__)

#: How often a wait is interrupted to look whether it should end, seconds.
LOOK_S = 0.05
#: How long after the time to drain the rows may take to say that all have ended, seconds.
LATE_S = 5.0
#: Most workers of a pool that has no `max`, where they are not processes of this machine.
MOST_ELSEWHERE = 100

Models = Mapping[str, Mapping[str, Any]]


def command() -> tuple[str, ...]:
    """How a worker is started. By module, not by script: the script's folder need not be on PATH, and ``-m`` puts the
    working folder on ``sys.path``, where the user's models are."""
    return (sys.executable, "-m", "penstock_cli", "worker")


def found_in(settings: Settings) -> Found:
    """What the settings' modules define, which a process of its own imports. Models that no pool can hold are told, and
    left out."""
    from penstock_cli.up.probe import Found, Probe, placed  # which imports this module

    probe = Probe(settings.models, child_env(settings))
    try:
        found = probe.result()
    finally:
        probe.close()
    models, faults = placed(found.models, settings.served_pools())
    for fault in faults:
        log.warning(fault, action="autoscaler.not_served")
    return Found(models, found.pipelines)


def announced(models: Sequence[ModelInfo]) -> dict[str, dict[str, Any]]:
    """What is known of models before a worker has announced them, as ``Store.models`` has it."""
    return {model.name: {**model.info, "pool": model.pool} for model in models}


def weights(models: Models) -> dict[str, int]:
    """Bytes that the models of each pool say they need."""
    found: dict[str, int] = {}
    for info in models.values():
        found[info["pool"]] = found.get(info["pool"], 0) + int(info.get("memory") or 0)
    return found


def make(
    settings: Settings, store: Store, models: Models, *, only: Collection[str] = ()
) -> tuple[Backend, Callable[[Collection[str]], Mapping[str, int]]]:
    """The backend of the settings, and how many workers of each pool it has room for. ``only``: not for all pools."""
    kind = settings.autoscaler.backend
    if kind == "external":
        return External(settings, store), elsewhere
    if kind == "kubernetes":
        if only:
            raise ConfigError("the backend `kubernetes` looks after all pools", fix="leave out --pool")
        return connect(settings.autoscaler.kubernetes, fleet=settings.namespace, elastic=store.elastic), elsewhere
    seats = Seats(settings, machine(), weights(models))
    logs = settings.home / "logs"
    env, pools = child_env(settings), {str(info["pool"]) for info in models.values()}
    warm = warm_of(settings, seats.room(pools), env, logs)
    local = Local(settings, store.elastic, command=command(), env=env, logs=logs, seats=seats, warm=warm)
    return local, seats.room


def pools_here(settings: Settings, models: Models) -> list[str] | None:
    """The pools that workers can serve which this process starts, with the models that it knows. ``None``: it starts
    none, and others may know more."""
    return sorted({str(info["pool"]) for info in models.values()}) if settings.autoscaler.backend == "local" else None


def elsewhere(pools: Collection[str]) -> dict[str, int]:
    """Room where nobody knows how much there is: whoever starts workers there says when there is none."""
    return dict.fromkeys(pools, MOST_ELSEWHERE)


def warm_of(settings: Settings, room: Mapping[str, int], env: Mapping[str, str], logs: Path) -> Warm | None:
    """What forks workers, if there are pools whose workers come and go."""
    if all(count <= settings.pool(pool).min for pool, count in room.items()):
        return None
    return Warm(settings.models, env=env, log=logs / "warm.log")


def wind_up(scaler: Autoscaler, backend: Backend, *, hurry: Callable[[], bool]) -> bool:
    """Have all workers drain and end, and stop; whether they did by themselves. ``hurry`` asks for their end at once.

    While the database is away, the workers of this machine are asked directly.
    """
    by_themselves = True
    scaler.wind_up()
    until = monotonic_s() + scaler.drain_s + MARGIN_S + LATE_S
    while scaler.seat.term is not None and not scaler.away and not scaler.empty.wait(LOOK_S):
        if hurry() or monotonic_s() > until:
            by_themselves = False
            break
    scaler.stop(timeout_s=None)
    if isinstance(backend, Local):
        if not by_themselves:
            backend.kill_all()
        backend.ask_all()
        while not backend.ended():
            if hurry():
                by_themselves = False
                backend.kill_all()
            time.sleep(LOOK_S)
    return by_themselves
