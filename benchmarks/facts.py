"""What a figure means nothing without: the machine, the programs' versions, the load."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from benchmarks.servers import find_postgres

from penstock.transport.embedded import find_server

_PACKAGES = ("penstock", "celery", "kombu", "redis", "SQLAlchemy", "psycopg", "msgspec")


#: A machine with more running processes than this share of its cores is not quiet: its figures are void.
QUIET_LOAD = 0.5


def facts(*, seed: int) -> dict[str, Any]:
    """Facts about this machine and this environment, JSON-ready."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=True),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_average": os.getloadavg(),
        "quiet": os.getloadavg()[0] <= QUIET_LOAD * (psutil.cpu_count(logical=True) or 1),
        "memory_bytes": psutil.virtual_memory().total,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "redis_server": _first_line([str(find_server()), "--version"]),
        "postgres_server": _first_line([str(find_postgres() / "postgres"), "--version"]),
        "sqlite": sqlite3.sqlite_version,
        "seed": seed,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _first_line(command: list[str]) -> str:
    return (
        subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=30)
        .stdout.strip()
        .split("\n")[0]
    )
