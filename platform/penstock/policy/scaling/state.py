"""What one decision leaves to the next. Opaque to everybody else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from penstock.lane import Lane
from penstock.policy.scaling.flow import Flow

NEVER = -math.inf


class State(Struct, frozen=True, kw_only=True):
    """``State()`` is the beginning. Times are on the observer's clock, in JSON they are ages."""

    #: Of the look that was last taken into account.
    seen_at: float = NEVER
    #: Workers wanted, ready and starting together; ``None``: nothing was decided yet.
    target: int | None = None
    flow: Flow = field(default_factory=Flow)
    #: Work that was there at the last look, device seconds; what was refused is not there any more.
    left_s: float = 0.0
    #: Workers that spares were woken for at the last look.
    sudden: float = 0.0
    #: When a lane last had work.
    used_at: Mapping[Lane, float] = field(default_factory=dict)
    #: How long work stayed away when it did so for long, and came again; 0: it does not, or for too long.
    pause_s: float = 0.0
    #: The highest rate to staff for, by stretches of time: ``(its beginning, workers)``, the oldest first.
    peaks: tuple[tuple[float, float], ...] = ()
    #: Nothing is stopped until then.
    panic_until: float = NEVER
    #: When the last one was stopped.
    down_at: float = NEVER
    #: When those that are starting were ordered, on average.
    ordered_at: float = NEVER
    #: How far need rose within the time to be ready, and when that was noted: the highest, forgotten slowly.
    rise: float = 0.0
    rise_at: float = NEVER

    def later(self, seconds: float) -> State:
        """The same, as if all of it had been so much later."""
        return replace(
            self,
            **{name: getattr(self, name) + seconds for name in TIMES},
            used_at={lane: at + seconds for lane, at in self.used_at.items()},
            peaks=tuple((at + seconds, height) for at, height in self.peaks),
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, for whoever goes on after this process."""
        value = asdict(self)
        value["flow"] = asdict(self.flow)
        for name in TIMES:
            value[name] = self._age(getattr(self, name))
        value["used_at"] = {str(lane): self._age(at) for lane, at in self.used_at.items()}
        value["peaks"] = [[self._age(at), height] for at, height in self.peaks]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, now: float) -> State:
        """What ``as_json`` gave, on another clock, as if no time had passed. Of what it does not understand it makes
        the beginning: another release may have written it."""

        def at(age: float | None) -> float:
            return NEVER if age is None else now - float(age)

        known = set(cls.__struct_fields__) & set(value)
        try:
            made: dict[str, Any] = {name: value[name] for name in known - {"flow"}}
            made |= {name: at(value[name]) for name in known & set(TIMES)}
            if "flow" in value:
                made["flow"] = Flow(**{name: float(value["flow"][name]) for name in Flow.__struct_fields__})
            made["used_at"] = {Lane(lane): at(age) for lane, age in value.get("used_at", {}).items()}
            made["peaks"] = tuple((at(age), float(height)) for age, height in value.get("peaks", ()))
            for name in ("left_s", "sudden"):
                made[name] = float(value.get(name, 0.0))
            made["rise"] = float(value.get("rise", 0.0))
            made["pause_s"] = float(value.get("pause_s", 0.0))
            made["target"] = None if value.get("target") is None else int(value["target"])
        except (TypeError, ValueError, KeyError, AttributeError):
            return cls()
        return cls(**made)

    def _age(self, at: float) -> float | None:
        return self.seen_at - at if at > NEVER else None


#: Of the fields, those that are times.
TIMES = ("seen_at", "panic_until", "down_at", "ordered_at", "rise_at")
