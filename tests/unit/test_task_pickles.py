"""Pickles in result backends: those of JSON's values are read, and no other costs or does anything."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import pytest

from penstock.dispatch.tasks.pickled import SHARED, unpickled

VALUES = [
    *(None, True, 0, 255, 65535, -1, 2**40, -(2**70), 2**2100, 0.5, "", "é\n", "x" * 70_000),
    *([], {}, (), (1, 2), (1, 2, 3), (1, 2, 3, 4), [1, [2, {"a": ("b", "b")}]], {"a": {"b": []}, "c": [None]}),
]
KEPT = ["row"]
#: A list of lists that are all the same one: three hundred bytes, and 10^30 elements.
BOMB: list[Any] = ["x"]
for _ in range(30):
    BOMB = [BOMB] * 10
ROUND: list[Any] = []
ROUND.append(ROUND)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_of_json_are_read(protocol: int) -> None:
    for value in [*VALUES, VALUES, [KEPT] * 1000]:
        assert unpickled(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(pickle.dumps(BOMB), id="grows"),
        pytest.param(pickle.dumps(["x" * 1000] * (SHARED // 1000)), id="text_grows"),
        pytest.param(pickle.dumps(ROUND), id="has_itself"),
        pytest.param(b"\x80\x04Nr\xff\xff\xff\x0f.", id="remembers_much"),
        pytest.param(b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b".", id="promises_much"),
        pytest.param(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", id="deep"),
        pytest.param(pickle.dumps(print), id="a_function"),
        pytest.param(b"cos\nsystem\n(S'true'\ntR.", id="a_call"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_others_are_refused_at_once(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Exception):  # noqa: B017 - whatever says so
            unpickled(raw)
        assert tracemalloc.get_traced_memory()[1] < 2 * SHARED
    finally:
        tracemalloc.stop()
