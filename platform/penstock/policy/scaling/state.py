"""What one decision leaves to the next. Opaque to everybody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """``State()`` is the beginning. Its times are ages in JSON, since a successor has another clock."""

    #: The target of the last decision; ``None``: there was none.
    target: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for whoever goes on after this process."""
        return {"target": self.target}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, now: float) -> State:
        """What ``as_json`` gave, on another clock. Of what it does not understand it makes the beginning."""
        target = value.get("target")
        return cls(target=target if isinstance(target, int) else None)
