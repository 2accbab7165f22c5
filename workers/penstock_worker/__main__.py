"""``python -m penstock_worker``: the worker process of ``penstock_worker.main``, as its supervisor starts it.

Ctrl-C goes to every process of a terminal's group. Until Celery takes it for a wish to drain, it ends this process as
it ends any other: without a traceback, however long torch and the models take to import.
"""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from penstock.processes.lean import without_rich

    with without_rich():
        from penstock_worker.main import main

    sys.exit(main())
