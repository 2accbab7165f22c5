"""What a process holds that a forked one cannot have: threads, devices, connections.

Of threads only the one that forks goes along; what the others had locked stays locked for ever. A device's context is
the parent's, and CUDA refuses to work with it. A connection would be two processes' at once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: How files begin that stand for a device in use: NVIDIA's, AMD's.
DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What was found."""

    #: Threads beside the main one, and the names of those that Python knows.
    threads: int = 0
    names: Sequence[str] = ()
    devices: Sequence[str] = ()
    connections: int = 0


def take(own: Collection[int] = ()) -> Census:
    """Of this process. ``own`` are file descriptors that may be sockets."""
    files = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            files[int(path.name)] = str(path.readlink())
    devices = {path for path in files.values() if path.startswith(DEVICES)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        devices.add("CUDA")
    return Census(
        threads=sum(1 for _ in Path("/proc/self/task").iterdir()) - 1,
        names=[thread.name for thread in threading.enumerate() if thread is not threading.main_thread()],
        devices=sorted(devices),
        connections=sum(
            1 for number, path in files.items() if path.startswith("socket:") and number > 2 and number not in own
        ),
    )


def fault(census: Census) -> tuple[str, str] | None:
    """Why a process that holds this cannot be forked, and what to do; ``None``: it can. PURE."""
    if census.threads:
        what = "a thread" if census.threads == 1 else f"{census.threads} threads"
        named = f" ({', '.join(census.names)})" if census.names else " of a library"
        return f"has started {what}{named}", "start threads, and compute, in load(), not when the module is imported"
    if census.devices:
        return f"has opened {', '.join(census.devices)}", "use the device in load(), not when the module is imported"
    if census.connections:
        what = "a connection" if census.connections == 1 else f"{census.connections} connections"
        return f"has opened {what}", "open connections in load(), not when the module is imported"
    return None
