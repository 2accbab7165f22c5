"""The processes that a predecessor has started for slots and did not live to write down.

One that was started cold says its slot by its command line, and the start that it is by its environment. One that was
forked shows those of the process that it was forked from; it is known by its log, which is that of its name, and nobody
else's while its row has that name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from penstock.autoscaler.backends.command import Named
from penstock.processes.agreed import SLOT_FENCE
from penstock.processes.warm import ZYGOTE
from penstock.store.elastic import Slot

#: What a file is known by, whatever it is called: its device and its number there.
File = tuple[int, int]


def orphans(slots: Iterable[Slot], logs: Path) -> dict[str, int]:
    """Of these slots, which have a place and nobody known in it, the processes that there are: those of supervisors."""
    by_words, by_log = _cold(), _forked()
    found = {}
    for slot in slots:
        pid = by_words.get((slot.id, slot.fence or ""))
        if pid is None:
            with suppress(OSError):  # it has no log: nothing was started
                pid = by_log.get(_file(log_of(logs, Named.read(slot.place or {}, slot.pool))))
        if pid is not None:
            found[slot.id] = pid
    return found


def log_of(logs: Path, named: Named) -> Path:
    """Where what a worker says is written."""
    return logs / f"{named.name}.log"


def _cold() -> Mapping[tuple[str, str], int]:
    """By slot and fence: the first of each line, its supervisor."""
    found: dict[tuple[str, str], psutil.Process] = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "--slot" not in words[:-1]:
            continue
        with suppress(psutil.Error):  # it has ended, or is another user's
            key = words[words.index("--slot") + 1], process.environ().get(SLOT_FENCE, "")
            known = found.get(key)
            if known is None or process.create_time() < known.create_time():
                found[key] = process
    return {key: process.pid for key, process in found.items()}


def _forked() -> Mapping[File, int]:
    """By the log that it writes to: what was forked and leads a session, as a supervisor does."""
    found: dict[File, int] = {}
    for process in psutil.process_iter(["cmdline"]):
        if ZYGOTE not in (process.info["cmdline"] or []):
            continue
        with suppress(OSError):  # it has ended, or is another user's; only Linux forks, and has these paths
            if os.getsid(process.pid) == process.pid:
                found[_file(Path(f"/proc/{process.pid}/fd/1"))] = process.pid
    return found


def _file(path: Path) -> File:
    about = path.stat()
    return about.st_dev, about.st_ino
