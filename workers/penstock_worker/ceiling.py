"""A bound on this process's own memory, where the settings have one: ``pools.NAME.memory``.

On Linux it is ``RLIMIT_DATA``: what the process has mapped for itself and may write. Beyond it an allocation fails,
which Python, numpy and torch raise as an error: a batch that is too large is tried in parts, one input that is too
large fails, and a model that does not fit does not load, each with this bound in its words. Weights that are mapped
from their files, and what CUDA only reserves, do not count; memory that is mapped and not yet touched does.

Elsewhere nothing is bounded, which is said once.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import structlog

from penstock.errors import ConfigError

log = structlog.get_logger(__name__)

#: What a RuntimeError says of an allocation that the system refuses: torch's allocator, C++ libraries.
_REFUSED = ("can't allocate memory", "bad_alloc", "cannot allocate memory")
#: Beside what the process has at its start: less than this is room for nothing, bytes.
LEAST_ROOM = 64 * 2**20


def hold_to(count: int | None, pool: str) -> None:
    """From now on, no more than ``count`` bytes; ``None``: no bound. Raises ``ConfigError`` where it is below what the
    process has by now."""
    if count is None:
        return
    if not sys.platform.startswith("linux"):
        log.warning("memory is bounded on Linux only", action="worker.unbounded", pool=pool, memory=count)
        return
    has = taken()
    if count < has + LEAST_ROOM:
        raise ConfigError(
            f"pools.{pool}.memory is {size(count)}, and a worker has {size(has)} before its models are loaded",
            fix=f"raise it to {size(has + LEAST_ROOM)} and what the models need, or take it out",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))


def bound() -> int | None:
    """The bytes that this process may have; ``None`` where nothing bounds it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if soft == resource.RLIM_INFINITY else soft


def taken() -> int:
    """The bytes that count, now. 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def is_hit(error: BaseException) -> bool:
    """Whether an error is of memory that this process may not have; one of a device's memory is not."""
    if bound() is None:
        return False
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _REFUSED)


def who(error: BaseException) -> str:
    """Whose memory was short, for a person."""
    return (
        f"this worker's bound of {size(bound() or 0)} (pools.NAME.memory) leaves" if is_hit(error) else "the device has"
    )


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
