"""A run's steps as the command line prints them: a table, JSON, what has changed, what a screen has room for. PURE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.clock import isoformat
from penstock.pipelines.show.limits import words
from penstock.store.runs.cost import RunCost
from penstock.store.runs.standing import RunStanding, StepRow
from penstock_cli.jobview import counted, seconds, short
from penstock_cli.runview import FAILED, IDLE, PENDING, SKIPPED, StepView


def step_dict(view: StepView) -> dict[str, Any]:
    """A step's JSON form. ``elements`` is a map's: how many there are and how many have each status, and sums of their
    times."""
    elements = None
    if view.size is not None:
        elements = {
            "size": view.size,
            "counts": dict(sorted(view.counts.items())),
            "wait_s": view.summed_wait_s,
            "run_s": view.summed_run_s,
            "device_s": view.device_s,
        }
    return {
        "step": view.name,
        "calls": view.calls,
        "status": view.status,
        "id": view.id,
        "attempts": view.attempts,
        "began_at": isoformat(view.began_at),
        "started_at": isoformat(view.started_at),
        "ended_at": isoformat(view.ended_at),
        "until": isoformat(view.until),
        "wait_s": view.wait_s(),
        "run_s": view.run_s(),
        "compute_s": view.compute_s,
        "device_s": view.device_s,
        "batch_size": view.batch,
        "worker": view.worker,
        "error": view.error,
        "critical": view.critical,
        "taken_over": view.taken_over,
        "limits": dict(view.limits),
        "elements": elements,
    }


HEADER = ("step", "done", "status", "wait", "run", "batch", "*", "calls")
#: Which columns a terminal can do without, the first one first.
DROP = ("calls", "batch", "wait", "run", "*", "status")


def step_row(view: StepView, now: float | None = None) -> list[Any]:
    """One line of the table; what has not ended is told as it is at ``now``, and nothing of times that are another
    run's."""
    at = None if view.status in (PENDING, SKIPPED) else now
    mine = not view.taken_over
    return [
        view.name,
        done(view),
        view.status if mine else "taken over",
        seconds(view.wait_s(at)) if mine else None,
        seconds(view.run_s(at)) if mine else None,
        f"{view.batch:.3g}" if mine and view.batch is not None else None,
        "*" if view.critical else None,
        f"{_calls(view)} ({held})" if (held := words(view.limits)) else _calls(view),
    ]


def _calls(view: StepView) -> str:
    """``wait for decision until 2030-01-01T08:00:00.000Z``, while it does."""
    until = isoformat(view.until)  # a wait without an end has none
    return view.calls if until is None else f"{view.calls} until {until}"


def log_line(view: StepView) -> str:
    """What a log is told of a step: how it stands, how far a map is, what it waits for."""
    more = _calls(view) if view.status in IDLE.values() else done(view)
    return f"{view.name}  {view.status}  {more or ''}".rstrip()


def done(view: StepView) -> str | None:
    """How far a map is: ``7,312/10,000``."""
    if view.size is None:
        return None
    failed = sum(view.counts.get(status, 0) for status in FAILED)
    text = f"{view.counts.get('succeeded', 0):,}/{view.size:,}"
    return f"{text} ({failed:,} failed)" if failed else text


def cost_dict(cost: RunCost) -> dict[str, Any]:
    """What a run has taken, its JSON form; times are seconds. Which steps decided its end stands beside it."""
    return {
        "device_s": cost.device_s,
        "by_model": dict(cost.by_model),
        "queue_s": cost.queue_s,
        "run_s": cost.run_s,
        "total_s": cost.total_s,
        "steps": cost.steps,
        "taken_over": cost.taken_over,
    }


def cost_pairs(standing: RunStanding, cost: RunCost) -> list[tuple[str, Any]]:
    """The same for a person, with the run's bounds."""
    parts = sorted(cost.by_model.items(), key=lambda each: -each[1])
    spent = ", ".join(f"{model} {seconds(took)}" for model, took in parts if took)
    every = counted(len(standing.graph.steps), "step")
    many = len([took for took in cost.by_model.values() if took]) > 1
    return [
        ("taken over", f"{cost.taken_over:,} of {every}" if cost.taken_over else None),
        ("device time", f"{seconds(cost.device_s)} ({spent})" if many else seconds(cost.device_s)),
        ("budget", seconds(standing.budget_s)),
        ("steps waited", seconds(cost.queue_s) if cost.steps else None),
        ("steps ran", seconds(cost.run_s) if cost.steps else None),
        ("in flight", f"at most {standing.max_parallel}" if standing.max_parallel else None),
    ]


def failures(shown: Sequence[StepView], elements: Sequence[StepRow]) -> list[dict[str, Any]]:
    """What failed or expired: plain steps, and elements of maps."""
    plain = [(view.name, view.id, view.status, view.error) for view in shown if view.id and view.status in FAILED]
    parts = [(row.path, row.id, row.status, row.error) for row in elements]
    return [{"step": path, "id": id, "status": status, "error": error} for path, id, status, error in plain + parts]


def failure_row(one: Mapping[str, Any]) -> list[Any]:
    """One line of a table of ``failures``."""
    error = one["error"] or {}
    words = f"{error.get('message', '')} [{error.get('code', 'error')}]" if error else one["status"]
    return [one["step"], one["id"], short(words, 400)]


def changed(before: Sequence[StepView], after: Sequence[StepView], *, counts: bool) -> Iterator[StepView]:
    """The steps whose status is another one now; with ``counts`` those of which more is done, too."""
    old = {view.name: view for view in before}
    for view in after:
        was = old.get(view.name)
        if was is None and view.status == PENDING:
            continue
        if was is None or was.status != view.status or (counts and was.counts != view.counts):
            yield view


def worth(shown: Sequence[StepView], rows: int) -> tuple[list[StepView], str]:
    """Those that a screen of so many rows has room for, and what is said of the others: what goes on is shown first."""
    if len(shown) <= rows:
        return list(shown), ""
    rank = {PENDING: 2, "succeeded": 1, SKIPPED: 3}
    order = sorted(range(len(shown)), key=lambda place: (rank.get(shown[place].status, 0), place))
    kept = sorted(order[: max(0, rows - 1)])
    return [shown[place] for place in kept], f"and {counted(len(shown) - len(kept), 'more step')}"
