"""What the workers of ``benchmarks/pipeline.py --part redeploy`` serve: a pipeline before and after a deployment.

``BENCH_DEPLOYED=new`` is afterwards: a step is added, one has another name, and one is gone. The functions that runs in
flight still call are served on. Each call is written down in the folder ``PENSTOCK_HOME``.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import penstock

#: How long each call takes, seconds: some runs are on their way when a worker is told to leave.
PAUSE_S = 0.01
#: The steps of a run that began before, each of which is called once.
BEFORE = ("first", "second", "third")
_CALLS = "calls.txt"


def calls(home: Path) -> Counter[str]:
    """How often each function has been called."""
    file = home / _CALLS
    return Counter(file.read_text(encoding="utf-8").split() if file.exists() else ())


def _called(name: str, value: Any) -> Any:
    time.sleep(PAUSE_S)
    with (Path(os.environ["PENSTOCK_HOME"]) / _CALLS).open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    return value


@penstock.step(pool="default")
def first(x: int) -> int:
    """Called before and after."""
    return int(_called("first", x + 1))


@penstock.step(pool="default")
def second(x: int) -> int:
    """Has another name afterwards."""
    return int(_called("second", x * 10))


@penstock.step(pool="default")
def third(x: int) -> int:
    """Gone afterwards."""
    return int(_called("third", -x))


if os.environ.get("BENCH_DEPLOYED") == "new":

    @penstock.step(pool="default")
    def added(x: int) -> int:
        """New."""
        return int(_called("added", x + 100))

    @penstock.step(pool="default")
    def tenfold(x: int) -> int:
        """``second``, by its new name."""
        return int(_called("tenfold", x * 10))

    @penstock.pipeline(name="redeployed")
    def after(y: int) -> Any:
        """Afterwards."""
        return tenfold(added(first(y)))

else:

    @penstock.pipeline(name="redeployed")
    def before(x: int) -> Any:
        """Before; it waits in the middle, so that it is in flight for as long as it takes to start a worker."""
        begun = first(x)
        return third(second(begun + penstock.wait_for("go", after=begun)))
