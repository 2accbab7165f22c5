"""``python -m penstock_worker.zygote SOURCE…``: the process that workers are forked from. ``penstock.processes.warm``
starts it, and ends it by closing its socket.

It computes with one thread while it brings things into memory: no library starts others then.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

#: Read by the libraries when they are loaded. What is forked has the numbers of its own environment again.
ALONE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")

if __name__ == "__main__":
    from penstock.processes.agreed import CONTROL_FD

    control = socket.socket(fileno=int(os.environ.pop(CONTROL_FD)))
    control.set_inheritable(False)
    environ = dict(os.environ)
    os.environ.update(dict.fromkeys(ALONE, "1"))
    # Whether a device is there is asked of the driver without opening it (NVML).
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # Whoever started it closes the socket; a signal to the terminal is not meant for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    from penstock.processes.lean import without_rich

    with without_rich():
        from penstock_worker.zygote import preload, server

    sys.exit(server.serve(control, environ, lambda: preload.load(sys.argv[1:], own={control.fileno()})))
