"""What a zygote decides, without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.processes.warm import _differs_early, _module_of
from penstock_worker.zygote.census import Census, fault
from penstock_worker.zygote.newborn import THREADS, threads
from penstock_worker.zygote.staleness import Files


@pytest.mark.parametrize(
    ("census", "said"),
    [
        (Census(), None),
        (Census(threads=1, names=["lookout"]), "has started a thread (lookout)"),
        (Census(threads=3), "has started 3 threads of a library"),
        (Census(devices=["/dev/nvidia0", "CUDA"]), "has opened /dev/nvidia0, CUDA"),
        (Census(connections=2), "has opened 2 connections"),
        # What cannot be mended by closing is said first.
        (Census(threads=1, devices=["CUDA"], connections=1), "has started a thread of a library"),
    ],
)
def test_a_process_that_holds_what_a_forked_one_cannot_have_is_not_forked(census: Census, said: str | None) -> None:
    found = fault(census)
    assert (found and found[0]) == said
    assert found is None or "in load(), not when the module is imported" in found[1]


@pytest.mark.parametrize(
    ("environ", "names", "count"),
    [
        ({}, THREADS, 6),
        ({"OMP_NUM_THREADS": "2"}, THREADS, 2),
        ({"OMP_NUM_THREADS": "4,2"}, THREADS, 4),
        ({"OMP_NUM_THREADS": "many", "MKL_NUM_THREADS": "3"}, THREADS, 3),
        ({"OMP_NUM_THREADS": "0"}, THREADS, 6),
        ({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}, THREADS[::-1], 1),
    ],
)
def test_as_many_threads_as_the_environment_says_or_cores(
    environ: dict[str, str], names: tuple[str, ...], count: int
) -> None:
    assert threads(environ, cores=6, names=names) == count


def test_a_file_that_was_replaced_changed_or_removed_is_told(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("code.py", "weights.pt")]
    for path in paths:
        path.write_text("1")
    files = Files([*paths, tmp_path / "absent"])
    assert files.changed() is None
    (tmp_path / "other").write_text("1")
    (tmp_path / "other").replace(paths[1])
    assert files.changed() == str(paths[1])
    files = Files(paths)
    paths[0].unlink()
    assert files.changed() == str(paths[0])


def test_only_a_module_of_this_interpreter_can_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.processes.warm.sys.executable", "/bin/python")
    assert _module_of(["/bin/python", "-m", "penstock_cli", "worker"]) == "penstock_cli"
    for other in (["/bin/other", "-m", "penstock_cli"], ["/bin/python", "-c", ""], ["/bin/python"], []):
        assert _module_of(other) is None


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ({"A": "1"}, {"A": "2"}, False),
        ({"PYTHONPATH": "a"}, {"PYTHONPATH": "a", "OMP_NUM_THREADS": "1"}, False),
        ({"PYTHONPATH": "a"}, {}, True),
        ({}, {"LD_PRELOAD": "a"}, True),
    ],
)
def test_what_only_a_new_process_heeds_needs_one(one: dict[str, str], other: dict[str, str], differs: bool) -> None:
    assert _differs_early(one, other) is differs
