"""Hears a run's partial output, beside whoever looks at its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.clock import monotonic_s
from penstock.errors import PenstockError
from penstock.service import ThreadService
from penstock_cli.runtails import Tails

if TYPE_CHECKING:
    from penstock import JobHandle

#: How long a run that has ended is given to tell its last piece, seconds.
LAST_S = 1.0


class Hearing(ThreadService):
    """For the length of a ``with``. ``handle`` is its own: nobody else looks at it meanwhile. Without one there is
    nothing to hear, and nothing is read."""

    def __init__(self, handle: JobHandle | None) -> None:
        super().__init__("hearing")
        self.tails = Tails()
        self._handle = handle

    def __enter__(self) -> Hearing:
        if self._handle is not None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()  # it ends with its run, or with the client

    def last(self) -> None:
        """The run has ended: wait a little for what is still on its way."""
        if self._handle is not None:
            self.join(LAST_S)

    def run(self) -> None:
        """Hear until the run has ended."""
        assert self._handle is not None
        try:
            for event in self._handle.stream():
                if self.stopping.is_set():
                    return
                if event.kind == "progress":
                    self.tails.hear(event.data, monotonic_s())
        except PenstockError:
            pass  # the client was closed, or the database is away, which whoever looks at the steps says
