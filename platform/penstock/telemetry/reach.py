"""Whether a server can be reached, said once per change instead of once per try."""

from __future__ import annotations

import structlog

from penstock.errors import Unreachable

log = structlog.get_logger(__name__)


class Reach:
    """The state of one server as one service sees it. ``lost`` and ``found`` may be called at every turn."""

    def __init__(self, what: str, *, service: str) -> None:
        self.up = True
        self._what = what
        self._service = service

    def lost(self, error: Unreachable) -> None:
        """It did not answer."""
        if self.up:
            self.up = False
            log.warning(
                f"{self._what} is away",
                action=f"{self._what}_down",
                service=self._service,
                error=error.message,
                fix=error.fix or None,
            )

    def found(self) -> None:
        """It answered."""
        if not self.up:
            self.up = True
            log.info(f"{self._what} is back", action=f"{self._what}_up", service=self._service)
