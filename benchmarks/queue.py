"""penstock against stock Celery: the cost of the queue itself, on no-op jobs with a tiny payload.

``python benchmarks/queue.py [--json] [--quick] [--repeats N] [--jobs N] [--seed N] [--pin | --free | --both]``

What is measured and how: ``benchmarks/comparison.py`` and ``docs/benchmarks.md``. The exit status is 0 when every
judged bar holds, 1 when one does not, 2 when the measurement itself failed.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Make ``benchmarks`` importable and run the comparison."""
    here = Path(__file__).resolve().parent
    # This file shares its name with a module of the standard library: its own folder must not be searched.
    sys.path[:] = [str(here.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != here)]
    from benchmarks.comparison import main as compare

    return compare()


if __name__ == "__main__":
    sys.exit(main())
