"""What a machine has: real files in the shapes in which Linux writes them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import psutil
import pytest

from penstock import inventory
from penstock.policy.placing import Device

GIB = 2**30
ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tree(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A control group tree, and the file that says where in it this process is."""
    root = folder / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    (folder / "own").write_text(own)
    return root, folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "cores", "memory"),
    [
        # Version 2: in a container of its own namespace; below a slice; without limits.
        ("0::/\n", {"cpu.max": "50000 100000", "memory.max": str(GIB)}, 0.5, GIB),
        (
            "0::/a.slice/b.scope\n",
            {"a.slice/cpu.max": "20000 100000", "a.slice/b.scope/cpu.max": "max 100000", "a.slice/memory.max": "4096"},
            0.2,
            4096,
        ),
        (
            "0::/a/b\n",
            {"a/memory.max": str(2 * GIB), "a/b/memory.max": str(GIB), "a/b/cpu.max": "25000 50000"},
            0.5,
            GIB,
        ),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        # The path is the host's, and only the root is there.
        ("0::/docker/0123\n", {"cpu.max": "10000 100000", "memory.max": "8192"}, 0.1, 8192),
        ("0::/../other\n", {"memory.max": "8192"}, None, 8192),
        # Version 1, one tree per controller.
        (
            "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n",
            {
                "memory/docker/1/memory.limit_in_bytes": "16384",
                "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "30000",
                "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000",
            },
            0.3,
            16384,
        ),
        (
            "4:memory:/\n3:cpu:/\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",  # what it says where there is none
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            None,
            None,
        ),
        # Both at once: the limits are in the old trees.
        (
            "4:memory:/x\n0::/x\n",
            {"memory/x/memory.limit_in_bytes": "16384", "unified/x/cpu.max": "10000 100000"},
            0.1,
            16384,
        ),
        # Nonsense, and nothing.
        ("0::/\n", {"cpu.max": "what", "memory.max": ""}, None, None),
        ("", {}, None, None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, own: str, files: dict[str, str], cores: float | None, memory: int | None
) -> None:
    root, said = tree(tmp_path, own, files)
    assert inventory.cores(root, said) == (cores if cores is not None else ALL)
    assert inventory.memory(root, said) == (memory if memory is not None else psutil.virtual_memory().total)


def test_where_there_are_no_control_groups(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    assert inventory.cores(nowhere, nowhere) == ALL
    assert inventory.memory(nowhere, nowhere) == psutil.virtual_memory().total


def test_this_machine_can_be_looked_at() -> None:
    found = inventory.machine()
    assert 0 < found.cores <= ALL and 0 < found.memory <= psutil.virtual_memory().total


def test_affinity_counts() -> None:
    if not hasattr(os, "sched_setaffinity") or ALL < 2:
        pytest.skip("this system has no affinity, or one core")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert inventory.cores() <= 1
    finally:
        os.sched_setaffinity(0, before)


def test_gpus_as_the_driver_lists_them(tmp_path: Path) -> None:
    for place, uuid in (("0000:41:00.0", "GPU-b"), ("0000:01:00.0", "GPU-a"), ("0000:81:00.0", "GPU-????????")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(
            f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 16\nGPU UUID: \t {uuid}\nBus Location: \t {place}\n"
        )
    (tmp_path / "0000:99:00.0").mkdir()  # without a word
    found = inventory.from_driver(tmp_path)
    assert [(each.id, each.index, each.name) for each in found] == [
        ("GPU-a", 0, "NVIDIA H100"),
        ("GPU-b", 1, "NVIDIA H100"),
        ("2", 2, "NVIDIA H100"),
    ]
    assert inventory.from_driver(tmp_path / "none") == []


def test_nvml_is_absent_gracefully() -> None:
    """Either the library is not installed, or it answers; neither raises."""
    found = inventory.from_nvml()
    if importlib.util.find_spec("pynvml") is None:
        assert found is None
    else:
        assert found is None or all(each.memory for each in found)


GPUS = [Device(id=f"GPU-{name}", index=index) for index, name in enumerate(("aa", "ab", "c"))]


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0, 0", [0]),
        ("0,7,1", [0]),  # what follows a wrong one is not seen
        ("GPU-c", [2]),
        ("GPU-a", []),  # two are meant
        ("GPU-ab,GPU-aa", [1, 0]),
    ],
)
def test_what_a_variable_leaves_visible(variable: str | None, seen: list[int]) -> None:
    assert [each.index for each in inventory.visible(GPUS, variable)] == seen
