"""What a process has said last, in the log of its output."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence


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
