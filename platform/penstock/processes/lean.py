"""What a process of ours begins without, although libraries that it needs would bring it along."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_rich() -> Iterator[None]:
    """What is imported in the block does not find rich, unless it is in memory already; who asks later does.

    structlog would print local variables with it, which our logs do not, and httpx2 has a command line that nobody
    calls: with Pygments and attrs it is 80 modules, a fifth of what a supervisor imports. Both do without where it is
    not installed. Only for processes of ours: in others, it is theirs to say. On the main thread, before others run.
    """
    if "rich" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["rich"] = None  # to the import system: there is none
    try:
        yield
    finally:
        modules.pop("rich", None)
