"""For how long nobody has served a model, or a version of it: PURE but for what was seen before.

What nobody served when somebody began to look counts from then. Who has not looked for a while (the database was away,
and the workers' leases ran out meanwhile) has seen nothing: all counts anew.
"""

from __future__ import annotations

from collections.abc import Iterable

#: A model and a version of it; ``None``: whichever.
Wanted = tuple[str, str | None]


class Absence:
    """Times are on one clock, seconds. ``gap_s``: who looks more seldom than that has seen nothing."""

    def __init__(self, *, gap_s: float) -> None:
        self._gap_s = gap_s
        self._seen: dict[Wanted, float] = {}
        self._since = self._looked = float("-inf")

    def look(self, served: Iterable[tuple[str, str]], *, now: float) -> None:
        """``served`` are models and versions that live workers serve."""
        if now - self._looked > self._gap_s:
            self._seen, self._since = {}, now
        self._looked = now
        for model, version in served:
            self._seen[model, version] = self._seen[model, None] = now

    def gone_s(self, wanted: Wanted, *, now: float) -> float:
        """Since when nobody serves this, as far as was seen."""
        return now - max(self._since, self._seen.get(wanted, self._since))
