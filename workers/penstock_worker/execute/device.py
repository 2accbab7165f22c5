"""Which device this worker owns."""

from __future__ import annotations

import importlib.util

#: What a RuntimeError says when memory ran out: CUDA, cuBLAS and cuDNN, torch's allocator for the CPU, C++.
_NO_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory", "bad_alloc")


def choose_device(wanted: str | None = None) -> str:
    """``wanted``, else the first CUDA device, else ``"cpu"``. Imports torch only when it is installed."""
    if wanted:
        return "cuda:0" if wanted == "cuda" else wanted
    if importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def kind_of(device: str) -> str:
    """What decides how long a batch takes there: ``"cpu"``, or the name of the accelerator."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device ran out of memory; matched by name and text, so that torch need not be imported.

    Libraries below torch, and torch's allocator for the CPU, say it in a plain ``RuntimeError``.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _NO_MEMORY)
