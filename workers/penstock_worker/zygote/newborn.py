"""What a forked process does before anything else, so that it is as one that the same command line has started."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from penstock.processes.agreed import DEATHS_FD, PULSE_FD

#: Variables whose value is the number of a file descriptor that is handed down.
DESCRIPTORS = (DEATHS_FD, PULSE_FD)
#: Variables that say how many threads compute, the first that is set counts; each of the libraries has one more.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

#: By the name of the package that brings it with it, and without.
_OPENBLAS = tuple(f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", ""))

_forked = False


def forked() -> bool:
    """Whether this process, or one that it descends from, was forked from a zygote."""
    return _forked


def begin(*, environ: Mapping[str, str], folder: str, log: int, descriptors: Mapping[int, int]) -> None:
    """A session, a log, an environment, a folder and chance of its own. ``descriptors`` are those that are handed down,
    by the numbers under which the sender knows them."""
    global _forked
    _forked = True
    os.setsid()
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.chdir(folder)
    if folder not in sys.path:  # as `python -m` does
        sys.path.insert(0, folder)
    inherit(environ, descriptors)
    faulthandler.enable()
    reseed()


def inherit(environ: Mapping[str, str], descriptors: Mapping[int, int]) -> None:
    """This environment, with the numbers that descriptors have here."""
    here = {str(number): str(mine) for number, mine in descriptors.items()}
    os.environ.clear()
    os.environ.update(
        {name: here.get(value, value) if name in DESCRIPTORS else value for name, value in environ.items()}
    )
    time.tzset()


def reseed() -> None:
    """Chance of its own: what its siblings draw is not what it draws."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


def unfold() -> None:
    """Have as many threads as the environment says, or as there are cores: the zygote computes with one, and the
    libraries remember it. Starts them: nothing is forked from this process any more."""
    if not _forked:
        return
    count = threads(os.environ, cores=_cores())
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
    _set_openblas(threads({"OMP_NUM_THREADS": str(count), **os.environ}, cores=count, names=THREADS[::-1]))


def threads(environ: Mapping[str, str], *, cores: int, names: Sequence[str] = THREADS) -> int:
    """How many threads compute. PURE."""
    for name in names:
        with suppress(ValueError):
            # A list is that of nested loops (OMP_NUM_THREADS=4,2): the outermost counts.
            if (found := int(environ.get(name, "").partition(",")[0])) > 0:
                return found
    return cores


def _cores() -> int:
    """As torch counts them: two threads of one core are one."""
    mine = len(os.sched_getaffinity(0))
    return min(mine, psutil.cpu_count(logical=False) or mine)


def _set_openblas(count: int) -> None:
    """numpy's: its library reads the variables when it is loaded, and not again."""
    if "numpy" not in sys.modules:
        return
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    for path in {line.split(maxsplit=5)[5] for line in lines if "openblas" in line}:
        with suppress(OSError):
            library = ctypes.CDLL(path)
            for name in _OPENBLAS:
                if (function := getattr(library, name, None)) is not None:
                    function(count)
                    break
