"""When a pool's workers are started again after they have died: PURE bookkeeping.

By pool, not by worker: what keeps one from coming up (a model that does not load) keeps all of them, and five workers
in a loop are five times the noise. So after some deaths in a row one is tried at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.processes.agreed import EXIT_NOT_LOADED, HEALTHY_AFTER_S, LOOP_AFTER, restart_delay_s


@dataclass(slots=True)
class Crashes:
    """Of one pool. Times are monotonic seconds."""

    in_a_row: int = 0
    #: Nothing is started before.
    not_before: float = 0.0
    #: What the last one has said.
    words: str = ""

    def died(self, *, lived_s: float, was_ready: bool, status: int | None, words: str, now: float) -> float:
        """One has ended that was not asked to. How long to wait with the next, seconds."""
        self.in_a_row = 1 if was_ready or lived_s > HEALTHY_AFTER_S else self.in_a_row + 1
        if status == EXIT_NOT_LOADED:  # the next one would say the same
            self.in_a_row = max(self.in_a_row, LOOP_AFTER)
        wait_s = restart_delay_s(self.in_a_row)
        self.not_before = now + wait_s
        self.words = words
        return wait_s

    def started(self, *, now: float) -> None:
        """One is started. In a loop, the others wait for how that goes."""
        if self.looping:
            self.not_before = now + restart_delay_s(self.in_a_row)

    def came_up(self) -> None:
        """One is ready: the cause is gone."""
        self.in_a_row, self.not_before, self.words = 0, 0.0, ""

    def may_start(self, now: float) -> bool:
        """Whether one may be started now."""
        return now >= self.not_before

    @property
    def looping(self) -> bool:
        """Whether they keep dying."""
        return self.in_a_row >= LOOP_AFTER

    @property
    def reason(self) -> str:
        """Why there is none, for a person; empty: there is no reason."""
        if not self.in_a_row:
            return ""
        loop = f"CrashLoop: died {self.in_a_row} times in a row" if self.looping else "died, and is started again"
        return f"{loop}: {self.words}" if self.words else loop
