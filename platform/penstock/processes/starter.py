"""How a process is started: cold, as a new interpreter, or in some quicker way that another starter knows."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from penstock import private

#: A log larger than this is set aside (one old file is kept) when its process starts, bytes.
LOG_BYTES = 16 * 2**20


class Starter(Protocol):
    """Starts a process that does not end with us: it leads a session of its own, and its output goes to ``log``."""

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path, *, pass_fds: Sequence[int] = ()) -> int:
        """Its process number. Raises ``OSError``."""
        ...


class Cold:
    """A new interpreter."""

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path, *, pass_fds: Sequence[int] = ()) -> int:
        """See ``Starter``."""
        turn_over(log)
        with private.file(log).open("ab") as file:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=tuple(pass_fds),
                # Ctrl-C goes to the terminal's process group: workers are stopped in order, and outlive us if need be.
                start_new_session=True,
            )
        # Waited for by number (`Handle`), whoever started it; this object would warn that it was not waited for.
        process.returncode = 0
        return process.pid


def turn_over(log: Path) -> None:
    """Set a long log aside."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.old"))
