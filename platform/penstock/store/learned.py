"""What a process remembers of the batch times that workers have stored: asked about for each step that begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from penstock.clock import monotonic_s
from penstock.pipelines.frontier import Outline
from penstock.pipelines.slack import Needed, Paths, paths, remaining

#: How long it is believed, seconds; workers store what they learn at their heartbeats.
KEPT_S = 10.0
#: Graphs of which it is remembered what each step and all behind it need.
MOST_GRAPHS = 256


class _Line(msgspec.Struct):
    """Of a stored ``policy.latency.LatencyModel``, what a batch of one takes."""

    alpha: float = 0.0
    beta: float = 0.0


_decode = msgspec.json.Decoder(_Line).decode


class Learned:
    """Thread-safe: what is old is replaced as a whole."""

    def __init__(self) -> None:
        self._seconds: Mapping[str, float] = {}
        self._paths: dict[str, Paths] = {}
        self._remaining: dict[str, dict[str, Needed]] = {}
        self._read_at: float | None = None

    @property
    def is_old(self) -> bool:
        """Whether it is to be read again."""
        return self._read_at is None or monotonic_s() - self._read_at > KEPT_S

    def learn(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Models, versions and states of whole models, the newest first: the newest is believed, whatever device."""
        seconds: dict[str, float] = {}
        for model, version, state in rows:
            try:
                line = _decode(state)
            except msgspec.MsgspecError:  # of another release
                continue
            for name in (model, f"{model}@{version}"):
                seconds.setdefault(name, line.alpha + line.beta)
        self._seconds, self._remaining, self._read_at = seconds, {}, monotonic_s()

    def remaining(self, digest: str, plan: Outline) -> Mapping[str, Needed]:
        """See ``pipelines.slack.remaining``."""
        known = self._remaining
        found = known.get(digest)
        if found is None:
            ways = self._paths.get(digest)
            if ways is None:
                if len(self._paths) >= MOST_GRAPHS:
                    self._paths, self._remaining = {}, {}
                ways = self._paths[digest] = paths(plan)
            found = known[digest] = remaining(ways, self._of)
        return found

    def _of(self, model: str) -> float:
        known = self._seconds.get(model)
        return known if known is not None else self._seconds.get(model.partition("@")[0], 0.0)
