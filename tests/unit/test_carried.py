"""The header ``penstock`` of a Celery message, which anybody may have written."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock_worker.canvas.carried import Carried, is_stored, read

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.mark.parametrize(
    ("headers", "carried"),
    [
        ({}, Carried()),
        ({"penstock": None}, Carried()),
        ({"penstock": "text"}, Carried()),
        ({"penstock": {}}, Carried()),
        ({"penstock": {"tenant": None, "tags": None, "webhook": None, "other": 1}}, Carried()),
        ({"penstock": {"tenant": "acme", "tags": {"run": "7"}}}, Carried("acme", {"run": "7"})),
        ({"penstock": {"webhook": "https://example.com/x"}}, Carried(webhook="https://example.com/x")),
        ({"penstock": {"trace": TRACE}}, Carried(trace=TRACE)),
        ({"traceparent": TRACE}, Carried(trace=TRACE)),
        ({"traceparent": "x" * 5000}, Carried()),
        ({"traceparent": TRACE, "penstock": {"trace": "none"}}, Carried(trace=TRACE)),
        ({"traceparent": 7, "penstock": {"trace": ["x"]}}, Carried()),
    ],
)
def test_what_is_read(headers: dict[str, Any], carried: Carried) -> None:
    assert read(headers, {}, allow_private=False) == carried


def test_the_property_wins_over_the_header_one_by_one() -> None:
    headers = {"penstock": {"tenant": "theirs", "tags": {"run": "7"}}}
    assert read(headers, {"penstock": {"tenant": "acme"}}, allow_private=False) == Carried("acme", {"run": "7"})
    assert read(headers, {"penstock": 7}, allow_private=False) == Carried("theirs", {"run": "7"})


@pytest.mark.parametrize(
    "said",
    [
        {"tenant": 7},
        {"tenant": ""},
        {"tenant": "a\0b"},
        {"tenant": "x" * 256},
        {"tags": ["run"]},
        {"tags": {"run": 7}},
        {"tags": {"run": "x\0y"}},
        {"tags": {"run": "\udc80"}},
        {"tags": {str(n): "x" for n in range(65)}},
        {"webhook": "file:///etc/passwd"},
        {"webhook": "http://169.254.169.254/latest"},
    ],
)
def test_what_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        read({"penstock": said}, {}, allow_private=False)


@pytest.mark.parametrize(
    ("header", "stored"),
    [(None, False), ("x", False), ({}, False), ({"tenant": "acme"}, False), ({"plain": True, "v": 2}, True)],
)
def test_only_what_was_made_of_a_row_is_stored(header: Any, stored: bool) -> None:
    assert is_stored({"penstock": header}) is stored
