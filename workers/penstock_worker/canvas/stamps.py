"""Celery's stamps: labels that a canvas gives its members, and by which they can be revoked. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_stamped(request: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether a Celery request has one of the ``wanted`` stamps (name -> one value, or several)."""
    stamps = getattr(request, "stamps", None) if wanted else None
    if not isinstance(stamps, Mapping):
        return False
    return any(
        stamp in _several(values)
        for name, values in wanted.items()
        if name in stamps
        for stamp in _several(stamps[name])
    )


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
