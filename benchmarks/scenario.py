"""What ``benchmarks/simulate.py`` is asked for: its arguments, and the worlds and requests that they mean."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.partition import by_number, by_popularity, popularity

from penstock.errors import ConfigError
from penstock.lane import LANES, Lane
from penstock.loadgen import simulator
from penstock.loadgen.arrivals import COSTS, SHAPES, Arrival, Stream, read_trace, schedule
from penstock.loadgen.seeds import seeded
from penstock.loadgen.simulator import Device, Kind, World
from penstock.model import Batching
from penstock.policy.batching import POLICIES
from penstock.policy.fairness import DEFAULT, Terms

SHARED, NUMBER, POPULARITY = "shared", "number", "popularity"
PARTITIONS = (SHARED, NUMBER, POPULARITY)
ADMISSIONS = {"on": True, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One combination of what was given in several values."""

    policy: str
    partition: str
    admission: str
    workers: int
    traffic: float


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All combinations. Raises ``ConfigError`` for a word that is none."""
    for partition in options.partition.split(","):
        _one_of(partition, PARTITIONS, "partition")
    for admission in options.admission.split(","):
        _one_of(admission, ADMISSIONS, "admission")
    for policy in options.policy.split(","):
        for partition in options.partition.split(","):
            for admission in options.admission.split(","):
                for workers in options.workers.split(","):
                    for traffic in options.traffic.split(","):
                        yield Case(
                            policy=policy,
                            partition=partition,
                            admission=admission,
                            workers=int(workers),
                            traffic=float(traffic),
                        )


def models(options: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """Name, alpha and beta in milliseconds, and share of the requests; empty where there is just the one model.

    ``--models N`` are alike, with ``--zipf`` popularity; ``--model`` names each.
    """
    if options.model:
        named = dict(_named(text) for text in options.model)
        whole = sum(share for *_, share in named.values())
        return {name: (alpha, beta, share / whole) for name, (alpha, beta, share) in named.items()}
    if options.models <= 1:
        return {}
    names = [f"m{number}" for number in range(options.models)]
    return {name: (options.alpha_ms, options.beta_ms, share) for name, share in popularity(names, options.zipf).items()}


def world(options: argparse.Namespace, case: Case) -> World:
    """The imagined system of a case."""
    costly = options.trace or options.cost != "one"
    batching = Batching(
        max_size=options.max_size,
        max_wait_s=None if options.max_wait_ms is None else options.max_wait_ms / 1e3,
        max_cost=options.max_cost,
        cost=(lambda item: item.cost) if costly or options.max_cost else None,
    )
    known = models(options)
    return World(
        device=_device(options, options.alpha_ms, options.beta_ms),
        batching=batching,
        models={
            name: Kind(device=_device(options, alpha, beta), batching=batching)
            for name, (alpha, beta, _) in known.items()
        },
        workers=case.workers,
        parts=_parts(case, {name: share for name, (*_, share) in known.items()}, options.seed),
        policy=case.policy,
        targets_s={Lane.INTERACTIVE: options.target_ms / 1e3, Lane.BACKGROUND: options.background_target_s},
        terms=_terms(options),
        admission=ADMISSIONS[case.admission],
        overhead_s=options.overhead_ms / 1e3,
    )


def traffic(options: argparse.Namespace, times: float) -> tuple[list[Arrival], float]:
    """The requests and how long they come, seconds."""
    if options.trace:
        with options.trace.open(encoding="utf-8-sig", newline="\n") as lines:
            arrivals = simulator.denser(read_trace(lines), times)
        return arrivals, (arrivals[-1].at_s if arrivals else 0.0) or 1.0
    background = options.background
    tenants = tenant_names(options)
    shares: Mapping[str | None, float] = {name: share for name, (*_, share) in models(options).items()} or {None: 1.0}
    streams = [
        Stream(
            rate=options.rate * times * part * share / len(tenants),
            arrivals=options.arrivals,
            cv2=options.cv2,
            factor=options.factor,
            lane=lane,
            tenant=tenant,
            model=model,
            cost=options.cost,
            deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1e3,
        )
        for lane, part in zip(LANES, (1 - background, background), strict=True)
        if part > 0
        for tenant in tenants
        for model, share in shares.items()
    ]
    return schedule(streams, options.duration, rng=seeded(options.seed)), options.duration


def tenant_names(options: argparse.Namespace) -> list[str]:
    """The tenants that share the traffic."""
    return [DEFAULT] if options.tenants <= 1 else [f"t{number}" for number in range(options.tenants)]


def _terms(options: argparse.Namespace) -> dict[str, Terms]:
    weights = [float(text) for text in options.weights.split(",")] if options.weights else []
    names = tenant_names(options)
    if len(weights) > len(names):
        raise ConfigError(f"there are {len(weights)} weights for {len(names)} tenants", fix="raise --tenants")
    return {
        name: Terms(weight=weight, cap=options.cap)
        for name, weight in zip(names, weights + [1.0] * (len(names) - len(weights)), strict=True)
    }


def _parts(case: Case, shares: Mapping[str, float], seed: int) -> Sequence[Sequence[str]]:
    if case.partition == SHARED:
        return ()
    if not 0 < case.workers <= len(shares):
        raise ConfigError(
            f"{len(shares) or 1} models cannot be dealt out to {case.workers} workers",
            fix="give at least as many --models as --workers",
        )
    if case.partition == NUMBER:
        return by_number(list(shares), case.workers, seed)
    return by_popularity(shares, case.workers)


def _device(options: argparse.Namespace, alpha_ms: float, beta_ms: float) -> Device:
    return Device(alpha_s=alpha_ms / 1e3, beta_s=beta_ms / 1e3, noise=options.noise)


def _named(text: str) -> tuple[str, tuple[float, float, float]]:
    name, _, numbers = text.partition("=")
    try:
        alpha, beta, *share = (float(part) for part in numbers.split(","))
        (part,) = share or [1.0]
    except ValueError:
        raise ConfigError(f"--model {text} is not usable", fix="write --model NAME=ALPHA_MS,BETA_MS[,SHARE]") from None
    return name, (alpha, beta, part)


def _one_of(word: str, words: Any, what: str) -> None:
    if word not in words:
        raise ConfigError(f"there is no {what} {word!r}", fix=f"use one of {', '.join(words)}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="simulate.py", description="penstock's policies on imagined devices")
    add = parser.add_argument
    add("--alpha-ms", type=float, default=8.0, help="a batch takes alpha + beta * cost (default 8)")
    add("--beta-ms", type=float, default=0.25, help="default 0.25")
    add("--noise", type=float, default=0.05, help="relative standard deviation of a batch's time (default 0.05)")
    add("--max-size", type=int, default=64, help="largest batch (default 64)")
    add("--max-cost", type=float, help="largest cost of a batch")
    add("--max-wait-ms", type=float, help="pin how long an incomplete batch waits")
    add("--models", type=int, default=1, metavar="N", help="models that are alike, m0, m1, … (default 1)")
    add("--zipf", type=float, default=1.0, metavar="S", help="their popularity falls as 1/rank**S (default 1; 0: even)")
    add("--model", action="append", metavar="NAME=ALPHA_MS,BETA_MS[,SHARE]", help="a model of its own; instead")
    add("--partition", default=SHARED, help=f"who serves what: {', '.join(PARTITIONS)}; several with commas")
    add("--overhead-ms", type=float, default=0.0, help="added to each latency: the way there and back")
    add("--policy", default="adaptive", help=f"of {', '.join(POLICIES)}; several with commas")
    add("--admission", default="on", help="on, off, or both with a comma (default on)")
    add("--workers", default="1", metavar="N[,N…]", help="workers; several with commas")
    add("--traffic", default="1", metavar="X[,X…]", help="times the traffic; several with commas")
    add("--rate", type=float, default=500.0, help="requests per second (default 500)")
    add("--duration", type=float, default=30.0, help="seconds of traffic (default 30)")
    add("--arrivals", choices=SHAPES, default="poisson")
    add("--cv2", type=float, help="squared coefficient of variation of the gaps")
    add("--factor", type=float, help="height of a step or spike")
    add("--trace", type=Path, metavar="FILE", help="play a recorded trace")
    add("--cost", choices=COSTS, default="one", help="what requests cost")
    add("--background", type=float, default=0.0, metavar="SHARE", help="share of background requests, 0 to 1")
    add("--tenants", type=int, default=1, help="tenants that share the traffic evenly")
    add("--weights", metavar="W[,W…]", help="weights of the first tenants (default 1)")
    add("--cap", type=int, help="most jobs that each tenant may have running")
    add("--target-ms", type=float, default=100.0, help="interactive target (default 100)")
    add("--background-target-s", type=float, default=60.0, help="background target (default 60)")
    add("--deadline-ms", type=float, help="deadline of each request, from its arrival")
    add("--sweep", action="store_true", help="find the highest rate with 99 %% in time")
    add("--seed", type=int, default=1)
    add("--quick", action="store_true", help="a tenth of the duration")
    add("--json", action="store_true", help="print one JSON object")
    add("--plot", metavar="FILE", help="write a picture (needs matplotlib)")
    options = parser.parse_args(argv)
    if options.quick:
        options.duration /= 10
    return options
