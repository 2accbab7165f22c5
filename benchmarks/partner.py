"""A child process that answers: a request as a JSON line in, its answer as a JSON line out, until its input ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import Child

Request = dict[str, Any]


class Partner:
    """The process. One request at a time."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.child = Child(command, log=log, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")

    def tell(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Have it carry out one request; its answer. Raises ``BenchmarkError`` when it dies of it."""
        process = self.child.process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            process.wait()
            self.child.check()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Let it write what is pending and end."""
        process = self.child.process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        if process.returncode:
            self.child.check()

    def stop(self) -> None:
        """End it, whatever it does. Idempotent."""
        self.child.stop()
        for stream in (self.child.process.stdin, self.child.process.stdout):
            if stream is not None:
                stream.close()


def serve(answer: Callable[[Request], Mapping[str, Any]]) -> None:
    """Be such a process."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
