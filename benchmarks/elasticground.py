"""What the live parts of ``benchmarks/elasticlive.py`` stand on: a penstock whose workers are its autoscaler's.

Servers, a dispatcher, an autoscaler and its workers are real processes; witnesses that trust none of them are triggers
in the database, a ledger that the model writes, and the machine's table of processes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from benchmarks.live import Setting, Stack
from benchmarks.processes import Child, eventually, python

from penstock import Client
from penstock.job import JobState
from penstock.processes.warm import ZYGOTE
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Slot
from penstock.transport.url import connect

#: Longest wait for a fleet to be as it is wanted, seconds: many workers start at once, on a few cores.
FLEET_TIMEOUT_S = 180.0
POOL = "default"

#: Each change of a slot's state with the epoch that made it and the one that led.
_TRIGGERS = """
CREATE TABLE bench_change (slot TEXT, state TEXT, epoch INTEGER, leads INTEGER);
CREATE TRIGGER bench_set AFTER UPDATE OF state ON penstock_slot WHEN NEW.state <> OLD.state
BEGIN INSERT INTO bench_change SELECT NEW.id, NEW.state, NEW.epoch, epoch
    FROM penstock_leader WHERE name = 'autoscaler'; END;
CREATE TRIGGER bench_add AFTER INSERT ON penstock_slot
BEGIN INSERT INTO bench_change SELECT NEW.id, NEW.state, NEW.epoch, epoch
    FROM penstock_leader WHERE name = 'autoscaler'; END;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    seed: int = 1
    #: Of the step: when it comes, and how long the whole is.
    steps: int = 3
    step_at_s: float = 10.0
    step_s: float = 70.0
    #: Scale-downs, and how many at a time.
    drains: int = 500
    together: int = 20
    drain_job_s: float = 5.0
    #: How often each moment is struck; how long a leader is stopped; its lease.
    strikes: int = 2
    stopped_s: float = 30.0
    lease_s: float = 10.0
    cycles: int = 200
    pools: int = 50
    workers: int = 1000
    ticks: int = 200


QUICK = {
    "steps": 1,
    "step_at_s": 5.0,
    "step_s": 20.0,
    "drains": 8,
    "together": 4,
    "drain_job_s": 2.0,
    "strikes": 1,
    "stopped_s": 4.0,
    "lease_s": 2.0,
    "cycles": 3,
    "ticks": 20,
}


class Site(Stack):
    """One penstock without workers of its own. ``pool`` are the settings of its pool, ``settings`` all others."""

    def __init__(
        self,
        folder: Path,
        setting: Setting,
        *,
        models: str,
        pool: Mapping[str, Any],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.ledger = folder / "ledger"
        self.ended = folder / "ended"
        super().__init__(
            folder,
            setting,
            workers=0,
            models=models,
            env={"BENCH_LEDGER": str(self.ledger)},
            settings={
                # What is measured is what users have.
                "PENSTOCK_LEASE__TTL_S": "30",
                "PENSTOCK_POOLS": json.dumps({POOL: {"device": "cpu", **pool}}),
                **(settings or {}),
            },
        )
        self.scalers: list[Child] = []

    # Autoscalers ------------------------------------------------------------------------------------------------

    def scaler(self, *args: str, env: Mapping[str, str] | None = None, scripted: bool = True) -> Child:
        """Start an autoscaler. ``scripted``: ``benchmarks.elasticdaemon``, with ``env``."""
        number = len(self.scalers)
        command = python("-m", "benchmarks.elasticdaemon", *args)
        if not scripted:
            command = python("-m", "penstock_cli", "autoscaler", "run", *args)
        child = Child(
            command,
            log=self.folder / f"scaler{number}.log",
            env={
                **self._environ,
                **self._worker_env,
                "PENSTOCK_MODELS": self._models,
                "BENCH_ENDED": str(self.ended),
                "PENSTOCK_LOG_LEVEL": "info",
                **(env or {}),
            },
        )
        self.scalers.append(child)
        return child

    def want(self, target: int, *, parked: int = 0, file: str = "targets") -> dict[str, str]:
        """Write what a scripted autoscaler is to want; its environment."""
        path = self.folder / file
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"target": target, "parked": parked}), encoding="utf-8")
        new.replace(path)
        return {"BENCH_TARGETS": str(path)}

    def stop(self) -> None:
        """Stop everything. Idempotent."""
        for scaler in self.scalers:
            scaler.resume()
            scaler.process.kill()
            scaler.process.wait()
        for process in self.workers_alive():
            with suppress(psutil.Error):
                process.kill()
        super().stop()

    # The fleet --------------------------------------------------------------------------------------------------

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Its database."""
        with self._store() as store:
            yield store

    def slots(self) -> list[Slot]:
        """All rows."""
        with self._store() as store:
            return store.elastic.slots()

    def epoch(self) -> int:
        """The epoch that leads; 0: none."""
        with self._store() as store:
            found = store.elastic.leadership()
            return found.epoch if found is not None and found.holder else 0

    def until(self, target: int, *, parked: int = 0, exactly: bool = True, timeout_s: float = FLEET_TIMEOUT_S) -> None:
        """Wait until so many are ready, and (``exactly``) nobody else is there."""
        with self._store() as store:

            def there() -> bool:
                slots = store.elastic.slots()
                ready = [slot for slot in slots if slot.ready_at is not None]
                wanted = sum(slot.state == "wanted" for slot in ready)
                resting = sum(slot.state == "parked" for slot in ready)
                return (wanted, resting) == (target, parked) and (not exactly or len(slots) == target + parked)

            eventually(there, f"{target} ready workers and {parked} parked", timeout_s=timeout_s, every_s=0.05)

    def broker_client(self) -> redis.Redis:
        """A connection to the broker, for ``with``."""
        return connect(self._environ["PENSTOCK_BROKER_URL"], timeout_s=10.0)

    def workers_alive(self) -> list[psutil.Process]:
        """Processes of workers: supervisors, and what they supervise. One that was forked has its zygote's words."""
        scalers = {scaler.pid for scaler in self.scalers}
        found = []
        for process in self.family():
            words = words_of(process)
            with suppress(psutil.Error):
                if "--slot" in words or (ZYGOTE in words and process.ppid() not in scalers):
                    found.append(process)
        return found

    def supervisors(self) -> set[int]:
        """Those of them that nobody supervises."""
        alive = {process.pid: process for process in self.workers_alive()}
        found = set()
        for pid, process in alive.items():
            with suppress(psutil.Error):
                if process.ppid() not in alive:
                    found.add(pid)
        return found

    def family(self) -> list[psutil.Process]:
        """All processes of this site that are not this benchmark's own."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get("PENSTOCK_HOME") == str(self.folder)
                if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    # Witnesses ----------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on the database writes down who changes a slot."""
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            database.executescript(_TRIGGERS)

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write to its database directly: what only many workers could."""
        with closing(sqlite3.connect(self._file, timeout=30)) as database, database:
            database.executemany(statement, rows)

    def changes(self) -> list[dict[str, Any]]:
        """What it has written down."""
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM bench_change")]

    def ends(self) -> list[dict[str, Any]]:
        """The ends of workers that autoscalers have seen."""
        if not self.ended.exists():
            return []
        return [json.loads(line) for line in self.ended.read_text(encoding="utf-8").splitlines()]

    @property
    def _file(self) -> str:
        return self._environ["PENSTOCK_DATABASE_URL"].removeprefix("sqlite:///")


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; none where it has ended."""
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


class Jobs:
    """Jobs of ``Timed`` that are submitted and audited. ``submit`` keeps no result: the rows and the ledger tell."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._client = Client(client_settings(site))
        self.ids: dict[str, str] = {}

    def submit(self, count: int, seconds: float, *, lane: str = "background") -> None:
        """So many jobs that take ``seconds`` each."""
        keys = [f"k{len(self.ids) + number}" for number in range(count)]
        handles = self._client.enqueue_many("timed", [[key, seconds] for key in keys], lane=lane)
        self.ids |= {handle.id: key for handle, key in zip(handles, keys, strict=True)}

    def still_open(self) -> int:
        """How many have not ended."""
        return self._site.open_jobs()

    def settle(self, timeout_s: float = FLEET_TIMEOUT_S) -> None:
        """Wait until all have ended."""
        eventually(lambda: self.still_open() == 0, "all jobs to end", timeout_s=timeout_s, every_s=0.1)

    def audit(self) -> dict[str, int]:
        """``lost``: not succeeded. ``twice``: executions beyond one each. ``claims``: beyond one each."""
        ran = (
            Counter(self._site.ledger.read_text(encoding="utf-8").split()) if self._site.ledger.exists() else Counter()
        )
        with self._site.store() as store:
            ids, rows = list(self.ids), {}
            for first in range(0, len(ids), 500):
                rows |= store.get_many(ids[first : first + 500])
        return {
            "jobs": len(self.ids),
            "lost": sum(id not in rows or rows[id].state is not JobState.SUCCEEDED for id in self.ids),
            "twice": sum(max(0, ran[key] - 1) for key in self.ids.values()),
            "never": sum(ran[key] == 0 for key in self.ids.values()),
            "claims": sum(max(0, row.attempt - 1) for row in rows.values()),
        }

    def close(self) -> None:
        """Let go of the servers."""
        self._client.close()


def client_settings(site: Site) -> Settings:
    """The settings of a client in this process."""
    return site.settings()


def kinds(processes: Sequence[psutil.Process]) -> Counter[str]:
    """Processes by what they are."""
    found: Counter[str] = Counter()
    for process in processes:
        words = words_of(process)
        module = next((words[at + 1] for at, word in enumerate(words[:-1]) if word == "-m"), words[0] if words else "?")
        found[" ".join([module, *words[words.index(module) + 1 :][:1]]) if module in words else module] += 1
    return found


def descriptors(pid: int) -> int:
    """How many it has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def wait(seconds: float) -> None:
    """Where time itself is what is waited for."""
    time.sleep(seconds)
