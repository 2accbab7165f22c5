"""Flower's pages, cut: the parts that promise what a worker of models has not are found in this Flower's sources."""

from __future__ import annotations

from pathlib import Path

import flower  # type: ignore[import-untyped]
import pytest

from penstock.dashboard.pages import cut

PAGES = Path(flower.__file__).parent / "templates"


@pytest.mark.parametrize(
    ("page", "gone", "left"),
    [
        ("worker.html", ("worker-pool-grow", "worker-pool-autoscale", "worker-pool-restart"), "worker-shutdown"),
        ("broker.html", ("Idle since", "idle_since"), "messages_unacknowledged"),
    ],
)
def test_what_a_worker_cannot_do_is_cut_out(page: str, gone: tuple[str, ...], left: str) -> None:
    text = (PAGES / page).read_text()
    assert all(words in text for words in gone)
    assert not any(words in cut(page, text) for words in gone)
    assert left in cut(page, text)


def test_other_pages_stay_as_they_are() -> None:
    text = (PAGES / "tasks.html").read_text()
    assert cut("tasks.html", text) == text
