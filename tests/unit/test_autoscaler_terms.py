"""The terms of a pool."""

from __future__ import annotations

import pytest

from penstock.autoscaler.terms import WAKE_S, terms_of
from penstock.settings import Settings


@pytest.mark.parametrize(("backend", "wake_in_s"), [("local", WAKE_S), ("kubernetes", WAKE_S), ("external", None)])
def test_workers_wait_parked_where_rows_say_which(backend: str, wake_in_s: float | None) -> None:
    """Who is told only how many there are to be has no rows that say which of them is to wait."""
    settings = Settings.load(autoscaler={"backend": backend}, pools={"gpu": {"warm": 1, "max": 3}})
    terms = terms_of(settings, "gpu", room=3)
    assert (terms.wake_in_s, terms.warm) == (wake_in_s, 1)
