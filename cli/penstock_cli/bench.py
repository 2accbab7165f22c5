"""``penstock bench``: offer load to a live system and say what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.lane import LANES, Lane
from penstock_cli import preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.errors import FAILED
from penstock_cli.inputs import read_input
from penstock_cli.params import Duration, complete_model
from penstock_cli.serving import warn_if_unserved

SHAPES = ("poisson", "gamma", "constant", "step", "spike", "trace")


@group()
def bench() -> None:
    """Offer load to a live system and measure it."""


@bench.command("load")
@click.argument("model", shell_complete=complete_model)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="R", help="Mean requests per second.")
@click.option("--duration", type=Duration(), default="10s", show_default=True, metavar="DURATION", help="How long.")
@click.option("--arrivals", type=click.Choice(SHAPES), default=None, help="When requests come; default poisson.")
@click.option("--cv2", type=float, metavar="X", help="Squared coefficient of variation of the gaps (gamma: 4).")
@click.option("--factor", type=float, metavar="X", help="Height of a step (5) or spike (3).")
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A recorded trace.")
@click.option("--input", "input_", metavar="INPUT", help="Every request's input: JSON, text or @FILE.")
@click.option("--lane", type=click.Choice([str(lane) for lane in LANES]), default="interactive", help="Their lane.")
@click.option("--tenant", default="default", metavar="NAME", help="Whose requests they are.")
@click.option("--deadline", type=Duration(), metavar="DURATION", help="A deadline for each, from its submission.")
@click.option("--target", type=Duration(), metavar="DURATION", help="In time means within; default: the lane's target.")
@click.option("--grace", type=Duration(), default="10s", show_default=True, help="Wait for late results at the end.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same times.")
@click.option("--plot", metavar="FILE", help="Write a picture of the run (needs matplotlib).")
@pass_app
def load(
    app: App,
    model: str,
    rate: float | None,
    duration: float,
    arrivals: str | None,
    input_: str | None,
    trace: Path | None,
    target: float | None,
    grace: float,
    seed: int,
    plot: str | None,
    **stream: Any,
) -> int | None:
    """Offer requests to MODEL at a rate, and measure what comes back.

    The rate is kept whatever comes back.

    Latency counts from the intended send time, and goodput is what came back in time over what was offered. Results are
    not compared with anything. Every request is a real job; the workers must be running.

    A trace is a JSON object a line: {"at_s": 0.25}, with lane, tenant, model, cost, input and deadline_s as it needs
    them.

    \b
      penstock bench load embed --rate 200 --duration 30s --input '"hello world"'
      penstock bench load embed --rate 50 --arrivals spike --factor 3 --input @question.json --plot run.png
      penstock bench load embed --trace monday.jsonl --input '"hello"' --json
    """
    from penstock.loadgen import generator, tally
    from penstock.loadgen import plot as plots

    if plot is not None:
        plots.check(plot)
    requests, duration = _arrivals(arrivals, rate, duration, trace, seed, stream)
    given = None if input_ is None else read_input(input_)
    if input_ is None and any(request.input is None for request in requests):
        raise click.UsageError("Say what to send: --input JSON, or an input in each line of the trace.")
    preflight.check(app)
    warn_if_unserved(app, model)
    targets = {str(lane): float(getattr(app.settings.lanes, lane).target) for lane in LANES}
    app.out.say(f"{len(requests)} requests in {duration:g} s …")
    run = generator.measure(
        app.settings,
        generator.Plan(
            model=model,
            arrivals=requests,
            duration_s=duration,
            make_input=lambda number, request: given if request.input is None else request.input,
            grace_s=grace,
        ),
    )
    report = tally.report(
        run.samples, duration_s=duration, target_s=targets if target is None else target, lags_s=run.lags_s
    )
    report = {"model": model, "seed": seed, **report, "batches": generator.batches_of(app.settings, run.samples)}
    if plot is not None:
        shown = report if target is not None else {**report, "target_ms": targets[stream["lane"]] * 1e3}
        plots.load(shown, plot, title=model)
    if app.out.json:
        app.out.data(report)
    else:
        _show(app, report)
    if report["void"]:
        app.out.warn(
            f"this run is void: the generator lagged {report['lag']['p99_ms']:.2f} ms at its p99, more than 1 ms; "
            "use a quieter machine or a lower rate"
        )
        return FAILED
    return None


def _arrivals(
    shape: str | None, rate: float | None, duration: float, trace: Path | None, seed: int, stream: dict[str, Any]
) -> tuple[list[Any], float]:
    """The schedule, and how long it lasts."""
    from penstock.loadgen.arrivals import Stream, read_trace, schedule
    from penstock.loadgen.seeds import seeded

    if trace is not None or shape == "trace":
        if trace is None:
            raise click.UsageError("Name the file: --trace FILE.")
        if shape not in (None, "trace") or rate is not None:
            raise click.UsageError("A trace has its own times: leave out --rate and --arrivals.")
        try:
            with trace.open(encoding="utf-8-sig", newline="\n") as lines:
                requests = read_trace(lines)
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"cannot read {trace}: {error}") from None
        if not requests:
            raise click.UsageError(f"{trace} holds no request.")
        return requests, requests[-1].at_s or 1.0
    if rate is None:
        raise click.UsageError("Say how many: --rate requests per second, or --trace FILE.")
    source = Stream(
        rate=rate,
        arrivals=shape or "poisson",
        cv2=stream["cv2"],
        factor=stream["factor"],
        lane=Lane(stream["lane"]),
        tenant=stream["tenant"],
        deadline_s=stream["deadline"],
    )
    return schedule([source], duration, rng=seeded(seed)), duration


def _show(app: App, report: dict[str, Any]) -> None:
    def milli(name: str, of: dict[str, Any] = report) -> str:
        return "-" if of[name] is None else f"{of[name]:.1f} ms"

    misses = {name: report[name] for name in ("refused", "expired", "failed", "unfinished") if report[name]}
    batches = report["batches"].get("all") or {}
    app.out.pairs(
        [
            ("offered", f"{report['offered']} ({report['offered_per_s']:.1f}/s)"),
            ("in time", f"{report['in_time']} ({report['goodput_per_s']:.1f}/s)"),
            ("goodput", "-" if report["goodput"] is None else f"{report['goodput']:.2%}"),
            ("missed", ", ".join(f"{count} {name}" for name, count in misses.items())),
            ("errors", ", ".join(f"{count} {code}" for code, count in report["errors"].items())),
            ("latency", f"p50 {milli('p50_ms')}, p95 {milli('p95_ms')}, p99 {milli('p99_ms')}, max {milli('max_ms')}"),
            ("submission", f"p50 {milli('submit_p50_ms')}, p99 {milli('submit_p99_ms')}"),
            ("batches", f"{batches['batches']:.0f}, mean size {batches['mean_size']:.1f}" if batches else ""),
            ("released", ", ".join(f"{name} {share:.0%}" for name, share in batches.get("reasons", {}).items())),
            ("generator lag", f"p50 {milli('p50_ms', report['lag'])}, p99 {milli('p99_ms', report['lag'])}"),
        ]
    )
    for kind in ("lanes", "tenants", "models"):
        if len(report[kind]) > 1:
            app.out.line()
            app.out.table(
                [kind[:-1], "offered", "goodput", "p50", "p95", "p99"],
                [
                    [name, row["offered"], f"{row['goodput']:.2%}", *(milli(f"p{p}_ms", row) for p in (50, 95, 99))]
                    for name, row in report[kind].items()
                ],
            )
