"""The workers of a stack: an autoscaler in this process, and processes of this machine.

It runs in a thread and not as a child: it starts at once, and what it starts is ours to stop, whatever becomes of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.autoscaler.backends.local import Local
from penstock.autoscaler.backends.running import Running
from penstock.autoscaler.backends.seats import Seats
from penstock.autoscaler.daemon import Autoscaler
from penstock.clock import monotonic_s, now
from penstock.errors import ModelLoadFailed, PenstockError
from penstock.inventory import machine
from penstock.policy.placing import Machine
from penstock.processes.agreed import EXIT_NOT_LOADED
from penstock.processes.lastwords import last_error
from penstock.processes.watch import Guardian
from penstock.settings import Settings
from penstock.store import Store
from penstock_cli.fleets import announced, command, warm_of, weights, wind_up
from penstock_cli.params import with_metrics_port
from penstock_cli.up.plan import WORKERS
from penstock_cli.up.probe import ModelInfo

#: How often a wait for their end looks again, seconds.
LOOK_S = 0.05


class Workers:
    """``start`` once the models are known. ``count`` are the workers of each pool; ``None``: as many as there is work
    for.

    ``on_change`` hears of each process that was started or has ended, on any thread.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        count: int | None,
        env: Mapping[str, str],
        logs: Path,
        guardian: Guardian,
        say: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._count = count
        self._env, self._logs = env, logs
        self._guardian = guardian
        self._say = say
        self._on_change = on_change
        #: Set when the whole stack is ready: from then on a death is told and made up for, and is no failure.
        self.ready = False
        self._store: Store | None = None
        self._local: Local | None = None
        self._scaler: Autoscaler | None = None
        self._least: dict[str, int] = {}
        self._running: dict[int, Running] = {}
        self._failed: list[Running] = []
        #: Revisions of which it was said that their workers do not start, and that nothing depends on them.
        self._on_trial: set[str] = set()
        self._hurried = threading.Event()

    def start(self, models: Sequence[ModelInfo], pipelines: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin to have the workers that these need, which can be asked for from now on."""
        here = machine()
        pools = sorted({model.pool for model in models})
        settings = sized(self._settings, pools, self._count, here)
        if port := settings.metrics.port:  # the dispatcher has that one, the autoscaler the next
            settings = with_metrics_port(settings, port + 1)
        self._least = {pool: settings.pool(pool).min for pool in pools}
        known = announced(models)
        seats = Seats(settings, here, weights(known))
        self._store = store = Store.open(settings.database)
        store.announce(known, pipelines, now=now())
        self._local = Local(
            settings,
            store.elastic,
            command=command(),
            env=self._env,
            logs=self._logs,
            seats=seats,
            warm=warm_of(settings, seats.room(pools), self._env, self._logs),
            say=lambda line: self._say(line) if self.ready else None,
            on_start=self._started,
            on_end=self._ended,
        )
        self._scaler = Autoscaler(
            settings,
            store,
            self._local,
            room=seats.room,
            given=known,
            serves=pools,
            # The files of this home are ours alone: whoever has led on them before was ours, and is gone.
            at_once=settings.database_url is None,
        )
        self._scaler.start()

    @property
    def running(self) -> list[Running]:
        """Their processes."""
        return list(self._running.values())

    def missing(self) -> set[str]:
        """What does not serve yet, of those that each pool has at least. Raises ``StoreUnavailable``.

        Where another autoscaler decides, nothing is expected of this one.
        """
        if self._scaler is None or self._store is None or self._led_by_another():
            return set()
        slots = self._store.elastic.slots()
        ready = {slot.id for slot in slots if slot.state == "wanted" and slot.ready_at is not None}
        missing: set[str] = set()
        for pool, least in self._least.items():
            if sum(slot.id in ready for slot in slots if slot.pool == pool) < least:
                late = {one.name for one in self.running if one.pool == pool and one.slot not in ready}
                missing |= late or {f"pool {pool}"}
        return missing

    def raise_if_failed(self) -> None:
        """Before all is ready, a worker that does not come up is the end: raise its own words."""
        scaler = self._scaler
        if scaler is not None:
            for pool in scaler.pools.by_name.values():
                if pool.fleet.stuck.startswith("no "):
                    raise PenstockError(
                        pool.fleet.stuck,
                        fix="ask for fewer workers (--workers 1, or min in the pool's settings), or for less memory or"
                        " another device in those",
                    )
        for ended in [each for each in self._failed if not self._is_on_trial(each)]:
            kind = ModelLoadFailed if ended.handle.status == EXIT_NOT_LOADED else PenstockError
            said = last_error(ended.tail())
            if said is not None:
                raise kind(f"{said[0]} ({ended.name}, log: {ended.log})", fix=said[1])
            shown = "\n".join(f"  | {line}" for line in ended.tail())
            raise kind(f"{ended.name} did not start:\n{shown}", fix=f"mend that; the whole log: {ended.log}")

    def _is_on_trial(self, ended: Running) -> bool:
        """Whether its pool does not depend on it: it is of a revision that has never come up, or that was taken back.
        Raises ``StoreUnavailable``."""
        assert self._store is not None
        slot = next((slot for slot in self._store.elastic.slots() if slot.id == ended.slot), None)
        rollout = self._store.elastic.rollouts().get(ended.pool)
        if slot is None or rollout is None:
            return False
        revision = slot.spec.get("revision", "")
        if revision == rollout.revision and rollout.proven_at is not None:
            return False
        if revision not in self._on_trial:
            self._on_trial.add(revision)
            fix = "" if revision != rollout.revision else f"; `penstock rollout undo {ended.pool}` takes it back"
            self._say(f"{ended.name} of revision {revision!r} did not start{fix} (log: {ended.log})")
        return True

    def stop(self, *, unready_s: float) -> None:
        """Have them drain and end. Before all was ready there is nothing to finish, and they have ``unready_s``."""
        scaler, local = self._scaler, self._local
        if scaler is None or local is None or self._store is None:
            return
        self._scaler = None
        if self.ready:
            wind_up(scaler, local, hurry=self._hurried.is_set)
        else:
            scaler.stop(timeout_s=None)
            local.ask_all()
            until = monotonic_s() + unready_s
            while not local.ended():
                if monotonic_s() > until or self._hurried.is_set():
                    local.kill_all()
                time.sleep(LOOK_S)
        local.close()
        self._store.close()

    def hurry(self) -> None:
        """While another thread is in ``stop``: do not wait for what runs."""
        self._hurried.set()

    def _led_by_another(self) -> bool:
        scaler = self._scaler
        if scaler is None or scaler.seat.term is not None or not scaler.seat.leader:
            return False
        self._say(f"another autoscaler decides how many workers there are ({scaler.seat.leader}): none is started here")
        return True

    def _started(self, running: Running) -> None:
        self._guardian.add(running.handle.pid, stage=WORKERS, grace_s=running.grace_s)
        self._running[running.handle.pid] = running
        self._on_change()

    def _ended(self, running: Running) -> None:
        self._guardian.remove(running.handle.pid)
        self._running.pop(running.handle.pid, None)
        if not self.ready and not running.asked:
            self._failed.append(running)
        self._on_change()


def sized(settings: Settings, pools: Sequence[str], count: int | None, here: Machine) -> Settings:
    """The settings with ``count`` workers in each of these pools, which share devices if there are fewer: PURE."""
    if count is None:
        return settings
    named = dict(settings.pools)
    for name in pools:
        pool = settings.pool(name)
        devices = len(pool.devices) or len(here.devices)
        share = max(pool.share, -(-count // devices)) if devices else pool.share
        named[name] = pool.model_copy(update={"min": count, "max": count, "share": share})
    return settings.model_copy(update={"pools": named})
