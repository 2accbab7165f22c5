"""What the demo measured, as one value and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from penstock import Job
from penstock.job import Ledger
from penstock_cli.examples.search.check import Check

#: Where a job's time goes, in the order in which it does: a name, and how to read it off the job's ledger. Of a run
#: they are added up over the steps that decided when it ended.
STAGES: tuple[tuple[str, Callable[[Ledger], float | None]], ...] = (
    ("waiting at the broker", lambda ledger: _at_broker(ledger)),
    ("waiting in the worker", lambda ledger: ledger.batch_wait_s),
    ("in the model", lambda ledger: ledger.compute_s),
    ("storing the result", lambda ledger: _after_model(ledger)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneReport:
    """One lane's figures: latencies and stages in seconds."""

    jobs: int
    p50_s: float
    p95_s: float
    p99_s: float
    batch_mean: float
    batch_max: int
    stages: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """How long some questions took, seconds."""

    questions: int
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the demo says in the end. ``while_embedding`` are the ``interactive`` questions that came while
    passages were embedded; ``None`` where none did. ``refused`` had to come back (``Overloaded``)."""

    jobs: int
    runs: int
    alone_per_s: float
    burst_per_s: float
    interactive: LaneReport
    while_embedding: Latencies | None
    refused: int
    background: LaneReport
    alone: LaneReport
    burst: LaneReport
    webhook: str | None
    dashboard: str | None
    check: Check

    @property
    def gain(self) -> float:
        """How many times as many texts a second batches brought, against one at a time in the same run."""
        return self.burst_per_s / self.alone_per_s if self.alone_per_s else 0.0

    @property
    def passed(self) -> bool:
        """Whether the answers were right and the webhook came."""
        return self.check.passed and self.webhook is not None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self) | {"gain": self.gain, "passed": self.passed}


def lane_report(chains: Sequence[Sequence[Job]], latencies_s: Iterable[float]) -> LaneReport:
    """Figures of one lane. A chain is a plain job alone, or the jobs of a run that waited for each other; its batch is
    the largest one. Latencies are given, since who waits for an answer knows better than the server.
    """
    ordered = sorted(latencies_s)
    sizes = [max((job.batch_size or 1 for job in chain), default=1) for chain in chains]
    stages = {name: [sum(read(job.ledger) or 0.0 for job in chain) for chain in chains] for name, read in STAGES}
    return LaneReport(
        jobs=len(chains),
        p50_s=percentile(ordered, 50),
        p95_s=percentile(ordered, 95),
        p99_s=percentile(ordered, 99),
        batch_mean=statistics.fmean(sizes),
        batch_max=max(sizes),
        stages={name: statistics.fmean(values) if values else 0.0 for name, values in stages.items()},
    )


def latencies(seconds: Iterable[float]) -> Latencies | None:
    """``None`` for none."""
    ordered = sorted(seconds)
    if not ordered:
        return None
    return Latencies(questions=len(ordered), p50_s=percentile(ordered, 50), p95_s=percentile(ordered, 95))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of a sorted, non-empty sequence."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def show(report: Report, console: Console) -> None:
    """Print the table and the verdicts."""
    table = Table(title=f"{report.jobs} jobs, with the steps of {report.runs} runs", title_justify="left")
    table.add_column("")
    lanes = (report.alone, report.burst, report.background, report.interactive)
    for name in ("one at a time", "a burst", "beside questions", "questions"):
        table.add_column(name, justify="right")
    table.add_row("texts/s", f"{report.alone_per_s:.0f}", f"{report.burst_per_s:.0f}", "", "")
    table.add_row("jobs, runs", *(str(lane.jobs) for lane in lanes))
    table.add_row("batch size, mean (max)", *(f"{lane.batch_mean:.1f} ({lane.batch_max})" for lane in lanes))
    for name in ("p50", "p95", "p99"):
        table.add_row(f"latency {name}", *(_duration(getattr(lane, f"{name}_s")) for lane in lanes))
    table.add_section()
    for name, _ in STAGES:
        table.add_row(f"{name}, mean", *(_duration(lane.stages[name]) for lane in lanes))
    console.print(table)
    console.print(
        f"batching   brought {report.gain:.1f} times: {report.burst_per_s:.0f} texts/s in batches of "
        f"{report.burst.batch_mean:.1f}, {report.alone_per_s:.0f} one at a time, on the same worker",
        highlight=False,
        soft_wrap=True,
    )
    beside = report.while_embedding
    if beside is not None:
        console.print(
            f"questions  {beside.questions} of {report.interactive.jobs} came while passages were embedded: p50 "
            f"{_duration(beside.p50_s)}, p95 {_duration(beside.p95_s)}; each is a run of several steps",
            highlight=False,
            soft_wrap=True,
        )
    if report.refused:
        console.print(
            f"overload   {report.refused} questions could not have been in time and were refused; they came back",
            highlight=False,
            soft_wrap=True,
        )
    webhook = f"received and verified ({report.webhook})" if report.webhook else "[red]none came[/red]"
    dashboard = f"{report.dashboard} (while it runs: --keep)" if report.dashboard else "not started"
    console.print(f"webhook    {webhook}", highlight=False, soft_wrap=True)
    console.print(f"dashboard  {dashboard}", highlight=False, soft_wrap=True)
    check = report.check
    verdict = "[green]the same as without the queue[/green]" if check.passed else "[red]NOT the same[/red]"
    console.print(
        f"answers    {verdict}: {check.agreeing} of {check.questions} questions find the same passage, "
        f"vectors differ by at most {check.max_abs_diff:.0e}",
        highlight=False,
        soft_wrap=True,
    )


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _at_broker(ledger: Ledger) -> float | None:
    if ledger.started_at is None:
        return None
    return max(0.0, ledger.started_at - ledger.accepted_at - (ledger.batch_wait_s or 0.0))


def _after_model(ledger: Ledger) -> float | None:
    if ledger.started_at is None or ledger.settled_at is None:
        return None
    # Two processes' clocks, and two kinds of clock: never below zero.
    return max(0.0, ledger.settled_at - ledger.started_at - (ledger.compute_s or 0.0))
