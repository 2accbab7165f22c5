"""What doctor says of a machine."""

from __future__ import annotations

import pytest

from penstock.inventory import machine
from penstock.policy.placing import Device, Machine
from penstock.settings import Settings
from penstock_cli.checkmachine import check, judge, shown

GIB = 2**30
SMALL = Machine(cores=2.0, memory=4 * GIB)


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (SMALL, "2 cores, 4.0 GiB of memory, no GPU"),
        (Machine(cores=1.0, memory=GIB // 2, certain=False), "1 core, 0.5 GiB of memory, no GPU found"),
        (
            Machine(
                cores=0.5,
                memory=GIB,
                devices=(
                    Device(id="a", index=0, name="NVIDIA H200", memory=139 * GIB),
                    Device(id="b", index=1, name="NVIDIA H200", memory=139 * GIB),
                    Device(id="2", index=2),
                ),
            ),
            "0.5 cores, 1.0 GiB of memory, 2 GPUs (NVIDIA H200, 139 GiB) and 1 GPU (of an unknown kind)",
        ),
    ],
)
def test_what_there_is_is_said(here: Machine, words: str) -> None:
    assert shown(here) == words


@pytest.mark.parametrize(
    ("pools", "words", "fix"),
    [
        ({"default": (1, 1)}, "would start: default 1", ""),
        ({"default": (1, 3)}, "would start: default 1, and up to 3 while there is work", ""),
        ({"cpu": (0, 2), "gpu": (1, 1)}, "would start: cpu 0, and up to 2 while there is work, gpu 1", ""),
        ({"gpu": (4, 1)}, "gpu 1 of its least 4 (there is no room for more)", "lower pools.gpu.min"),
    ],
)
def test_what_up_would_start_is_said(pools: dict[str, tuple[int, int]], words: str, fix: str) -> None:
    found = judge(SMALL, pools)
    assert words in found[0]
    assert found[1].startswith(fix) and bool(found[1]) is bool(fix)


def test_this_machine_is_told_with_the_pools_of_the_settings() -> None:
    detail, fix = check(Settings(pools={"tiny": {"min": 1, "max": 1}}))
    assert detail == f"{shown(machine())}; `penstock up` would start: tiny 1" and fix == ""
    has = check(Settings(pools={"tiny": {"min": 1, "max": 1}}), {"cpu": 0, "gpu": 3})
    assert has == (f"{shown(machine())}; the autoscaler has started: cpu 0, gpu 3", ""), "whose pools and room they are"
    assert "lower pools.vast.min" in check(Settings(pools={"vast": {"min": 2, "memory": "900000GiB"}}))[1]
