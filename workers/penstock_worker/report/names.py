"""What a worker is called: remote control, events and Flower tell workers apart by it. Nothing of ours does: an
instance is always unique."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable

from penstock.store.records import WorkerInfo


def node_name(name: str | None, pool: str | None, host: str, *, slot: str | None = None) -> str:
    """``gpu0@HOST``; ``penstock@HOST`` of one that nobody named, of the pool ``cpu`` ``penstock-cpu@HOST``, of a slot
    with the end of its id. PURE."""
    if name and "@" in name:
        return name
    return f"{name or '-'.join(filter(None, ('penstock', pool, slot and slot[-8:])))}@{host}"


def instance_name(node: str) -> str:
    """Another one in each life of each process: a lease is never taken over by the next process of the same host."""
    return f"{node}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def namesake(
    workers: Iterable[WorkerInfo], *, instance: str, name: str, now: float, lives: Callable[[int], bool]
) -> int | None:
    """The process of another live worker of this name. PURE. One whose process is gone was this one's predecessor: its
    lease has not run out yet."""
    for each in workers:
        pid = each.info.get("pid")
        if each.name == name and each.instance != instance and each.lease_until > now and pid and lives(pid):
            return int(pid)
    return None


def lives(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True
