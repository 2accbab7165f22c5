"""What a supervisor tells of the deaths of its process, in words for a person."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from penstock.processes.agreed import HEALTHY_AFTER_S, LOOP_AFTER
from penstock.processes.lastwords import how, last_words, nth, tail


class Deaths:
    """Of one supervised process: the deaths in a row, none after a minute of life, and what its log said at each."""

    def __init__(self, name: str, log: Path, *, since: int) -> None:
        self.in_a_row = 0
        self._name = name
        self._log = log
        #: How long the log was at the last one.
        self._told = since

    def told(self, death: Mapping[str, float]) -> list[str]:
        """Lines about one more, as the supervisor has told it: see ``agreed.DEATHS_FD``."""
        self.in_a_row = 1 if death["lived_s"] > HEALTHY_AFTER_S else self.in_a_row + 1
        again = f", the {nth(self.in_a_row)} time in a row" if self.in_a_row >= LOOP_AFTER else ""
        lines = [
            f"the process of {self._name} {how(int(death['status']))} after {death['lived_s']:g} s{again}; "
            f"starting it again in {death['wait_s']:g} s (log: {self._log})"
        ]
        words = last_words(tail(self._log, since=self._told))
        with suppress(OSError):
            self._told = self._log.stat().st_size
        return [*lines, f"  its last error: {words}"] if words is not None else lines
