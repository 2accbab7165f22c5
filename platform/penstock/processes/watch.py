"""Our end of the guardian's pipe (see ``guardian``)."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from penstock.processes import guardian


class Guardian:
    """Tells a small process whom to stop if we are killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(guardian.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,
        )

    def add(self, pid: int, *, stage: int, grace_s: float) -> None:
        """Stop this process if we die."""
        self._write(f"+ {stage} {pid} {grace_s}\n")

    def remove(self, pid: int) -> None:
        """This process is gone."""
        self._write(f"- {pid}\n")

    def stop(self) -> None:
        """End it; whatever is still listed is stopped. Can be called again."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
            process.wait()

    def _write(self, line: str) -> None:
        # Somebody may have killed the guardian: the next `up` then finds the orphans in the state file.
        with self._lock, suppress(OSError, ValueError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()
