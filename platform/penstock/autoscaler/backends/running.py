"""One worker's process of this machine, started here or found again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from penstock.autoscaler.backends.command import Named
from penstock.clock import monotonic_s
from penstock.processes.agreed import DEATHS_FD
from penstock.processes.deaths import Deaths
from penstock.processes.handle import Handle
from penstock.processes.lastwords import last_words, tail
from penstock.processes.starter import Starter
from penstock.store.elastic import Slot


class Running:
    """The process of one slot: that of the worker's supervisor, which leads its session."""

    def __init__(
        self,
        slot: str,
        pool: str,
        fence: str,
        named: Named,
        handle: Handle,
        *,
        log: Path,
        grace_s: float,
        started_at: float,
        log_from: int = 0,
        deaths: int | None = None,
    ) -> None:
        self.slot, self.pool, self.fence = slot, pool, fence
        self.named = named
        self.handle = handle
        self.log = log
        #: How long it may take to drain, seconds.
        self.grace_s = grace_s
        #: Whether it was asked to drain, by us or by a predecessor.
        self.asked = False
        #: Whether it was seen to be ready.
        self.ready = False
        self._asked_at: float | None = None
        self._started_at = started_at
        self._log_from = log_from
        self._deaths_fd = deaths
        self._deaths = Deaths(named.name, log, since=log_from)
        self._unread = b""

    @classmethod
    def start(
        cls,
        starter: Starter,
        slot: Slot,
        fence: str,
        named: Named,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        log: Path,
        grace_s: float,
    ) -> Running:
        """Start it. What its supervisor tells of deaths comes through a pipe."""
        told, writer = os.pipe()
        os.set_blocking(told, False)
        try:
            log_from = log.stat().st_size if log.exists() else 0
            pid = starter.start(argv, {**env, DEATHS_FD: str(writer)}, log, pass_fds=(writer,))
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(writer)
        return cls(
            slot.id,
            slot.pool,
            fence,
            named,
            Handle(pid),
            log=log,
            grace_s=grace_s,
            started_at=monotonic_s(),
            log_from=log_from,
            deaths=told,
        )

    @property
    def name(self) -> str:
        """Of the worker, and of its log."""
        return self.named.name

    @property
    def lived_s(self) -> float:
        """Since when it runs."""
        return monotonic_s() - self._started_at

    def ask(self) -> None:
        """Have it drain and end; once, since a second signal is another word."""
        if not self.asked:
            self.asked = True
            self.handle.send(signal.SIGTERM)
        if self._asked_at is None:
            self._asked_at = monotonic_s()

    def insist(self) -> None:
        """Kill it if it was asked and has had its time. Of one that a predecessor asked the time begins now."""
        if self._asked_at is None:
            self._asked_at = monotonic_s()
        if monotonic_s() - self._asked_at > self.grace_s:
            self.handle.kill()

    def news(self) -> list[str]:
        """What its supervisor has told since the last time, in words."""
        if self._deaths_fd is None:
            return []
        with suppress(BlockingIOError):
            while part := os.read(self._deaths_fd, 65536):
                self._unread += part
        *lines, self._unread = self._unread.split(b"\n")
        return [words for line in lines for words in self._deaths.told(json.loads(line))]

    def tail(self) -> list[str]:
        """The last lines that it has written."""
        return tail(self.log, since=self._log_from)

    def last_words(self) -> str | None:
        """Its last error."""
        return last_words(self.tail())

    def close(self) -> None:
        """Let go of it. Can be called again."""
        self.handle.close()
        fd, self._deaths_fd = self._deaths_fd, None
        if fd is not None:
            os.close(fd)
