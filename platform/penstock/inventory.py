"""What this machine has for workers: cores, memory, GPUs, with the limits of the container around this process.

Nothing here starts a driver's context or imports torch: a process that plans for others must not hold a device. GPUs
are asked of NVML (``nvidia-ml-py``) where that is installed, else read from ``/proc``, where the driver lists them
without their memory. ``CUDA_VISIBLE_DEVICES`` of this process bounds what is found.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from penstock.policy.placing import VISIBLE, Device, Machine

#: Where Linux says it.
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
DRIVER = Path("/proc/driver/nvidia/gpus")


def machine() -> Machine:
    """What this process may use now. Takes a millisecond, with NVML some tens."""
    devices, certain = _devices()
    return Machine(cores=cores(), memory=memory(), devices=visible(devices, os.environ.get(VISIBLE)), certain=certain)


def cores(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """Cores that this process may use: its affinity, and the quota of its control group, which may be a fraction."""
    return min([float(shown_cores()), *_quotas(root, own)])


def shown_cores() -> int:
    """Cores that libraries count: those of the affinity, whatever a control group's quota leaves of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Bytes of memory that this process and its kin may use: the machine's, or the limit of a control group."""
    limits = [_number(folder / name) for folder in _folders(root, own, "memory") for name in _MEMORY_FILES]
    # Version 1 says "no limit" with a number beyond all machines.
    return int(min([float(psutil.virtual_memory().total), *(limit for limit in limits if limit is not None)]))


def visible(devices: Sequence[Device], variable: str | None) -> tuple[Device, ...]:
    """Those that a process with this ``CUDA_VISIBLE_DEVICES`` sees, in its order. PURE.

    As CUDA reads it: what follows an entry that is no device is not seen either.
    """
    if variable is None:
        return tuple(devices)
    found: list[Device] = []
    for text in (part.strip() for part in variable.split(",")):
        # A UUID may be cut short where that is unambiguous.
        named = [each for each in devices if text and (str(each.index) == text or each.id.startswith(text))]
        exact = [each for each in named if str(each.index) == text] or named
        if len(exact) != 1:
            break
        if exact[0] not in found:
            found.append(exact[0])
    return tuple(found)


# Control groups ---------------------------------------------------------------------------------------------------

_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")


def _quotas(root: Path, own: Path) -> Iterator[float]:
    for folder in _folders(root, own, "cpu"):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            if quota != "max":
                yield int(quota) / int(period)
        quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota_us is not None and period_us and quota_us > 0:  # -1: none
            yield quota_us / period_us


def _folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The control groups that this process is in, up to the outermost that can be seen.

    Version 2 has one tree, version 1 one per controller. In a container the path may be that of the host, of which
    only the end, or nothing, is there: then the root of what is mounted is the container's own group.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controller, root / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in tops:
            for depth in range(len(parts), -1, -1):
                yield top.joinpath(*parts[:depth])


def _number(file: Path) -> float | None:
    try:
        value = float(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None
    return value if math.isfinite(value) else None


# GPUs -------------------------------------------------------------------------------------------------------------


def _devices() -> tuple[list[Device], bool]:
    """All, and whether it is certain that there are no others."""
    found = from_nvml()
    if found is not None:
        return found, True
    listed = from_driver()
    # Without either, there may be devices that neither of them knows of.
    return listed, bool(listed)


def from_nvml() -> list[Device] | None:
    """By NVML; ``None`` where it is not installed, or finds no driver. A GPU that is cut into parts is its parts."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        found: list[Device] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            with suppress(nvml.NVMLError):  # one that has fallen off the bus
                for handle in _parts(nvml, nvml.nvmlDeviceGetHandleByIndex(index)):
                    found.append(
                        Device(
                            id=_text(nvml.nvmlDeviceGetUUID(handle)),
                            index=len(found),
                            name=_text(nvml.nvmlDeviceGetName(handle)),
                            memory=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                        )
                    )
        return found
    except nvml.NVMLError:
        return None
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _parts(nvml: Any, handle: Any) -> list[Any]:
    try:
        on, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # it cannot be cut
        on = 0
    if not on:
        return [handle]
    parts = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError):
            parts.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
    return parts


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def from_driver(root: Path = DRIVER) -> list[Device]:
    """As the driver lists them under ``/proc``, in the order of their places on the bus, without their memory."""
    found: list[Device] = []
    with suppress(OSError):
        for folder in sorted(root.iterdir()):
            with suppress(OSError):
                lines = (
                    line.partition(":") for line in (folder / "information").read_text(encoding="utf-8").splitlines()
                )
                said = {name.strip(): value.strip() for name, _, value in lines}
                index = len(found)
                uuid = said.get("GPU UUID", "")
                # An unprivileged process may be told a UUID of question marks.
                known = uuid if uuid and "?" not in uuid else str(index)
                found.append(Device(id=known, index=index, name=said.get("Model", "")))
    return found
