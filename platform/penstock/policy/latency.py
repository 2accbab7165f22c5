"""How long a batch takes: learned online, one straight line per (model, version, key of the batch).

``t(cost) = alpha + beta * cost`` by exponentially weighted least squares (the newest batches count most; the weight
halves every ``HALF_LIFE`` batches) with ``alpha >= 0`` and ``beta > 0``, as Nexus and Clockwork profile offline and
BentoML's dispatcher fits online. A *margin* rises until predictions are on time in 98 % of the batches, so that a noisy
device is planned with more room and a steady one with hardly any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

#: Batches after which an observation counts half.
HALF_LIFE = 200
#: Smallest slope, seconds per unit of cost: a larger batch never looks quicker.
MIN_SLOPE = 1e-9
#: The share of batches that are to end within the margin, and how fast the margin follows.
ON_TIME, STEP = 0.98, 0.02
MARGIN_MAX = 2.0
#: A batch this many times longer than predicted was disturbed (a pause of the machine, a reload): it moves the margin
#: but not the line.
OUTLIER = 4.0
#: Relative errors that are kept for the report.
ERRORS_KEPT = 512
#: The newest of them, which are kept for the next worker: enough for a 99th percentile, little enough for a row.
ERRORS_STORED = 200
#: Weight of the slope that is known already against the spread of the sizes seen: at one size only, there is none.
_RIDGE = 1e-3
#: Kinds of batches that a worker remembers besides its models.
MOST_LINES = 1024
#: Shapes of batches that are remembered of each model: keys and numbers of items.
MOST_SHAPES = 4096
#: After so many batches in a row of shapes that were new, a model is one that hardly has any other.
ALL_NEW = 32


class LatencyModel:
    """One line. ``observe`` what a batch took; ask ``predict`` (the expectation) or ``bound`` (with the margin)."""

    __slots__ = (
        "_cov",
        "_errors",
        "_mean_c",
        "_mean_t",
        "_var_c",
        "_weight",
        "alpha",
        "beta",
        "largest",
        "margin",
        "seen",
    )

    def __init__(self) -> None:
        self.alpha = 0.0
        self.beta = 0.0
        self.margin = 1.05
        #: Batches observed, ever.
        self.seen = 0
        #: The largest cost observed: what lies far beyond it is a guess.
        self.largest = 0.0
        self._weight = 0.0
        self._mean_c = self._mean_t = self._var_c = self._cov = 0.0
        self._errors: deque[float] = deque(maxlen=ERRORS_KEPT)

    def observe(self, cost: float, seconds: float) -> None:
        """A batch of this cost kept the device for so long. Anything not positive is passed over."""
        if not (cost > 0 and seconds > 0):
            return
        late_by = 0.0
        if self.seen:
            predicted = self.predict(cost)
            late_by = seconds / max(predicted, 1e-9)
            self._errors.append(late_by - 1.0)
            late = late_by > self.margin
            self.margin *= 1.0 + STEP * (ON_TIME if late else ON_TIME - 1.0)
            self.margin = min(max(self.margin, 1.0), MARGIN_MAX)
        self.seen += 1
        self.largest = max(self.largest, cost)
        if self.seen > 8 and late_by > OUTLIER:
            return
        keep = 0.5 ** (1.0 / HALF_LIFE)
        self._weight = self._weight * keep + 1.0
        share = 1.0 / self._weight
        dc, dt = cost - self._mean_c, seconds - self._mean_t
        self._mean_c += share * dc
        self._mean_t += share * dt
        self._var_c = (1.0 - share) * (self._var_c + share * dc * dc)
        self._cov = (1.0 - share) * (self._cov + share * dc * dt)
        self._fit()

    def _fit(self) -> None:
        ridge = _RIDGE * self._mean_c * self._mean_c
        beta = (self._cov + ridge * self.beta) / (self._var_c + ridge) if self._mean_c else 0.0
        # Neither end of the line below zero: the time of an empty batch, and the cost of one more item.
        beta = min(max(beta, MIN_SLOPE), self._mean_t / self._mean_c)
        self.beta = beta
        self.alpha = max(0.0, self._mean_t - beta * self._mean_c)

    def predict(self, cost: float) -> float:
        """Expected seconds of a batch of this cost; 0 before the first observation."""
        return self.alpha + self.beta * cost

    def bound(self, cost: float) -> float:
        """``predict`` with the margin: seconds within which 98 % of such batches end."""
        return self.margin * (self.alpha + self.beta * cost)

    def within(self, seconds: float) -> float:
        """The largest cost whose ``bound`` is at most ``seconds``; 0 when not even an empty batch is."""
        if not self.seen:
            return float("inf")
        room = seconds / self.margin - self.alpha
        return room / self.beta if room > 0 and self.beta > 0 else 0.0

    def error(self, quantile: float = 0.99) -> float | None:
        """The quantile of ``|actual - predicted| / predicted`` over the last batches; ``None`` before the second."""
        if not self._errors:
            return None
        # A copy: other threads ask, too.
        ordered = sorted(map(abs, self._errors.copy()))
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, as JSON has it."""
        return {
            "alpha": self.alpha,
            "beta": self.beta,
            "margin": self.margin,
            "seen": self.seen,
            "largest": self.largest,
            "weight": self._weight,
            "mean_cost": self._mean_c,
            "mean_s": self._mean_t,
            "var_cost": self._var_c,
            "cov": self._cov,
            "errors": [round(error, 4) for error in self._errors.copy()][-ERRORS_STORED:],
        }

    def report(self) -> dict[str, float]:
        """What is shown besides: the relative error of the predictions, median and 99th percentile, of so many."""
        if not self._errors:
            return {}
        return {
            "error_p50": self.error(0.5) or 0.0,
            "error_p99": self.error(0.99) or 0.0,
            "error_of": len(self._errors),
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> LatencyModel:
        """A model that goes on from ``state``, ready to be corrected: it counts as at most half a ``HALF_LIFE``."""
        model = cls()
        model.alpha, model.beta = float(state["alpha"]), float(state["beta"])
        model.margin, model.seen = float(state["margin"]), int(state["seen"])
        model.largest = float(state["largest"])
        model._weight = min(float(state["weight"]), HALF_LIFE / 2)
        model._mean_c, model._mean_t = float(state["mean_cost"]), float(state["mean_s"])
        model._var_c, model._cov = float(state["var_cost"]), float(state["cov"])
        # Absent from what earlier versions have stored.
        model._errors.extend(map(float, state.get("errors", ())))
        return model


class LatencyBook:
    """The lines of one worker by (model, key). A key that was not seen yet borrows its model's line.

    Keys may be anything that users send: those that were not observed for longest are forgotten.
    """

    def __init__(self, most: int = MOST_LINES) -> None:
        # In the order of their last observation; the lines of whole models are never forgotten.
        self._lines: dict[tuple[str, str], LatencyModel] = {}
        self._most = most
        self._keyed = 0
        self._shapes: dict[str, _Shapes] = {}

    def first(self, model: str, size: int, key: str = "") -> bool:
        """A batch of ``size`` items of this key has run: whether it was the first of its shape since the model's load.

        Such a call compiles, tries algorithms and allocates: what it took says nothing of the next, and is not to be
        observed. Where nearly all shapes are new, it is what batches take.
        """
        shapes = self._shapes.get(model)
        if shapes is None:
            shapes = self._shapes[model] = _Shapes()
        return shapes.first((key, size))

    def loaded(self, model: str) -> None:
        """A model was loaded, perhaps again: what it had compiled and allocated is gone. Its lines stay."""
        self._shapes.pop(model, None)

    def line(self, model: str, key: str = "") -> LatencyModel:
        """The line of this kind of batch; of the whole model where this kind is new."""
        found = self._lines.get((model, key))
        if found is None or not found.seen:
            found = self._lines.get((model, ""))
        return found if found is not None else self._lines.setdefault((model, ""), LatencyModel())

    def observe(self, model: str, cost: float, seconds: float, key: str = "") -> None:
        """A batch was measured."""
        self._lines.setdefault((model, ""), LatencyModel()).observe(cost, seconds)
        if key:
            line = self._lines.pop((model, key), None)
            self._keyed += line is None
            line = self._lines[model, key] = line or LatencyModel()
            line.observe(cost, seconds)
            self._forget()

    def restore(self, model: str, states: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Start informed: ``(key, state)`` as an earlier worker left them."""
        for key, state in states:
            self._keyed += bool(key) and (model, key) not in self._lines
            self._lines[model, key] = LatencyModel.restore(state)
        self._forget()

    def items(self) -> Iterable[tuple[tuple[str, str], LatencyModel]]:
        """Everything learned, by (model, key)."""
        return list(self._lines.items())

    def _forget(self) -> None:
        while self._keyed > self._most:
            del self._lines[next(name for name in self._lines if name[1])]
            self._keyed -= 1


class _Shapes:
    """The shapes that one model has run, in the order of their last batches."""

    __slots__ = ("_new", "_seen")

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], None] = {}
        #: New ones in a row.
        self._new = 0

    def first(self, shape: tuple[str, int]) -> bool:
        """Whether it is new, and not one of many."""
        new = shape not in self._seen
        if not new:
            del self._seen[shape]
        elif len(self._seen) >= MOST_SHAPES:
            self._seen.pop(next(iter(self._seen)))
        self._seen[shape] = None
        self._new = self._new + 1 if new else 0
        return new and self._new <= ALL_NEW
