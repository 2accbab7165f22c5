"""Whether what was imported is still what lies on the disk: a worker of today is not forked from yesterday's code."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

#: Where what is installed lies: Python itself, and folders of these names. It changes with an installation, which
#: changes ours, too, and there are thousands of files.
_PYTHON = tuple(str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_INSTALLED = ("/site-packages/", "/dist-packages/")

_Mark = tuple[int, int, int] | None


class Files:
    """What was read, as it was then."""

    def __init__(self, paths: Iterable[str | PathLike[str]]) -> None:
        self._marks = {path: _mark(path) for path in (os.fspath(each) for each in paths)}

    def changed(self) -> str | None:
        """The first that is another one now."""
        return next((path for path, mark in self._marks.items() if _mark(path) != mark), None)


def of_modules(packages: Iterable[str]) -> set[str]:
    """The files of the modules in memory: of these packages, and of all that are not installed."""
    wanted = {*packages}
    return {
        path
        for name, module in list(sys.modules.items())
        if (path := getattr(module, "__file__", None))
        and Path(path).is_absolute()
        and (name.partition(".")[0] in wanted or not _is_installed(path))
    }


def _is_installed(path: str) -> bool:
    return path.startswith(_PYTHON) or any(folder in path for folder in _INSTALLED)


def _mark(path: str) -> _Mark:
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time, before every fork
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
