"""The wheel with the worker: ``penstock up`` on the home that ``smoke_sdk.py`` left, a job through it, a clean stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

READY_S, STOP_S = 120.0, 60.0


def main(home: Path) -> None:
    os.environ |= {"PENSTOCK_HOME": str(home), "PENSTOCK_MODELS": "smoke_models"}
    command = str(Path(sys.executable).with_name("penstock"))

    def penstock(*args: str) -> str:
        return subprocess.run([command, *args], check=True, stdout=subprocess.PIPE, encoding="utf-8", timeout=60).stdout

    up = subprocess.Popen([command, "up"])
    try:
        wait_ready(up, home / "run" / "up.json")
        assert json.loads(penstock("run", "shout", '"hello"')) == "HELLO"
        left = penstock("job", "wait", Path("left.txt").read_text(encoding="utf-8"))
        assert "LEFT BY THE SDK" in left, left
        penstock("doctor")
    finally:
        up.send_signal(signal.SIGINT)
        status = up.wait(STOP_S)
    assert status in (0, 130), f"`penstock up` ended with {status}"
    print("the wheel with the worker: ok")


def wait_ready(up: subprocess.Popen[bytes], state: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        assert up.poll() is None, f"`penstock up` ended with {up.returncode}"
        if state.exists() and json.loads(state.read_text(encoding="utf-8") or "{}").get("ready"):
            return
        time.sleep(0.2)
    raise AssertionError(f"`penstock up` was not ready after {READY_S:g} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
