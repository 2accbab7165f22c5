"""A supervisor's worker, forked from the supervisor: the part of ``subprocess.Popen`` that the supervisor uses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock_worker.zygote import newborn
from penstock_worker.zygote.census import fault, take
from penstock_worker.zygote.forking import fork


class Forked:
    """One process. ``run`` gives its exit status; it has the ``environ``, and not the descriptors in ``without``."""

    def __init__(
        self, run: Callable[[], int], *, argv: Sequence[str], environ: Mapping[str, str], without: Iterable[int]
    ) -> None:
        def live() -> int:
            for number in without:
                os.close(number)
            newborn.inherit(environ, {})
            newborn.reseed()
            sys.argv = list(argv)
            return run()

        self.pid = fork(live)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        """The same, when it has ended."""
        while (status := self._look(0)) is None:
            pass
        return status

    def send_signal(self, number: int) -> None:
        """A signal; one that has ended hears nothing."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def can_fork() -> bool:
    """Whether this process was forked itself, and nothing has come since that would stand in the way."""
    return newborn.forked() and fault(take()) is None
