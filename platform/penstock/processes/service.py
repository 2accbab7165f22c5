"""What is kept running: the command of one child process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One child process: its name (also of its log), its command, and the stage at which it is stopped.

    ``supervises``: it keeps a process of its own running, and tells of its deaths.
    """

    name: str
    argv: tuple[str, ...]
    stage: int
    stop_timeout_s: float = 10.0
    supervises: bool = False
