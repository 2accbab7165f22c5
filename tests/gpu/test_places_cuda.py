"""Where workers go on a machine with GPUs. Run with ``pytest -m gpu`` where there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from penstock import inventory
from penstock.policy.placing import Needs, Seat, environ, seat

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_gpus_are_found_without_a_context() -> None:
    found = inventory.machine().devices
    assert len(found) == torch.cuda.device_count()
    if importlib.util.find_spec("pynvml") is not None:
        assert all(each.memory and each.name for each in found)


def test_a_worker_sees_the_device_of_its_seat_and_no_other() -> None:
    place = seat(inventory.machine(), Needs(pool="gpu", kind="cuda"))
    assert isinstance(place, Seat)
    for given, count in ((place, 1), (Seat(pool="cpu", device=""), 0)):
        env = {**os.environ, **environ(given)}
        code = "import torch; print(torch.cuda.device_count())"
        assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True).split() == [str(count)]


def test_a_bound_on_memory_leaves_the_device_to_a_worker() -> None:
    """The addresses that CUDA reserves do not count; memory of the process does."""
    code = """
import torch
from penstock_worker.ceiling import hold_to, is_hit
hold_to(12 * 2**30, "gpu")
held = torch.ones(16 * 2**28, device="cuda")  # 16 GiB of the device
assert float((held[:8] + 1).sum()) == 16.0
try:
    torch.ones(16 * 2**28)  # of the process
except (RuntimeError, MemoryError) as error:
    assert is_hit(error), error
    print("refused")
"""
    if torch.cuda.get_device_properties(0).total_memory < 20 * 2**30:
        pytest.skip("this device has less than 20 GiB")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["refused"]
