"""How a process has ended, and what it has said last, in the log of its output."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from penstock.processes.agreed import MEANING


def last_error(lines: Sequence[str]) -> tuple[str, str] | None:
    """The last error of ours in a log, and its fix: a command of ours that fails ends with both."""
    found = None
    for line in lines:
        if line.startswith("error: "):
            found = (line.removeprefix("error: "), "")
        elif found is not None and line.startswith("  fix: "):
            found = (found[0], line.removeprefix("  fix: "))
    return found


def last_words(lines: Sequence[str]) -> str | None:
    """The last error in a log: one of ours with its fix, an event of level error, or the end of a traceback."""
    found = None
    for line in lines:
        if line.startswith("error: "):
            found = line.removeprefix("error: ")
        elif line.startswith("  fix: ") and found is not None:
            found += f" (fix: {line.removeprefix('  fix: ')})"
        elif line.startswith("{"):
            found = _event(line) or found
        elif re.match(r"[A-Za-z_][\w.]*(Error|Exception)\b|Fatal Python error", line):
            found = line
    return found


def _event(line: str) -> str | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    # The supervisor's own words, that the process died, are said already.
    if event.get("level") not in ("error", "critical") or str(event.get("action", "")).startswith("supervisor."):
        return None
    raised = str(event.get("exception") or event.get("error") or "").strip().splitlines()[-1:]
    return ": ".join([str(event.get("event", "")), *raised])


def tail(log: Path, lines: int = 12, *, since: int = 0) -> list[str]:
    """The last lines of a log behind a place in it, bytes."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(since)
        text = file.read()[-64_000:].decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
    return []


def how(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "has ended"
    if status < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}" + (f" ({MEANING[status]})" if status in MEANING else "")


def nth(number: int) -> str:
    """1st, 2nd, 3rd, …"""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
