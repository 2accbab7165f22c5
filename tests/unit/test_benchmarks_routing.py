"""Ten models on shared workers: how they are dealt out, and the bar that is judged by it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import live, routing
from benchmarks.partition import by_number, by_popularity, popularity, zipf
from benchmarks.routing import BALANCED, BY_NUMBER, MEMORY, SHARED
from benchmarks.zoo import NAMES, sources
from hypothesis import given
from hypothesis import strategies as st

from penstock.registry import Registry

ROOT = Path(__file__).resolve().parents[2]


def row(case: str, rate: float, seed: int = 1, **more: Any) -> dict[str, Any]:
    return {"case": case, "seed": seed, "highest_per_s": rate, "most_asked": None, "void": 0, "probes": [], **more}


def test_zipf_falls_with_the_rank_and_is_a_whole() -> None:
    shares = zipf(10)
    assert sum(shares) == pytest.approx(1.0)
    assert [shares[0] / share for share in shares] == pytest.approx(range(1, 11))
    assert zipf(4, 0.0) == [0.25] * 4


def test_the_order_of_the_names_does_not_tell_their_popularity() -> None:
    shares = popularity(NAMES)
    assert list(shares) == list(NAMES)
    assert list(shares.values()) != sorted(shares.values(), reverse=True)
    assert sorted(shares.values()) == pytest.approx(sorted(zipf(10)))


@given(workers=st.integers(1, 10), seed=st.integers(0, 50))
def test_every_partition_serves_every_model_once(workers: int, seed: int) -> None:
    shares = popularity(NAMES)
    for parts in (by_number(NAMES, workers, seed), by_popularity(shares, workers)):
        assert len(parts) == workers
        assert sorted(name for part in parts for name in part) == sorted(NAMES)
    assert {len(part) for part in by_number(NAMES, workers, seed)} <= {10 // workers, -(-10 // workers)}
    assert by_number(NAMES, workers, seed) == by_number(NAMES, workers, seed)


def test_the_partition_by_popularity_leaves_the_first_alone() -> None:
    shares = popularity(NAMES)
    asked = [sum(shares[name] for name in part) for part in by_popularity(shares, 5)]
    assert max(asked) == pytest.approx(max(shares.values()))


def test_a_worker_of_some_models_knows_those_and_no_other() -> None:
    assert [model.name for model in Registry.load(sources(["m7", "m2"]).split(","))] == ["m7", "m2"]
    assert sorted(model.name for model in Registry.load(["benchmarks.zoo"])) == sorted(NAMES)


def test_the_bar_is_the_median_against_the_partition_by_number() -> None:
    rows = [row(SHARED, rate, seed) for seed, rate in enumerate((450.0, 480.0, 200.0))]
    rows += [row(BY_NUMBER, rate, seed) for seed, rate in enumerate((200.0, 300.0, 500.0))]
    rows += [row(BALANCED, 400.0), row(MEMORY, 45.0)]
    verdicts = {verdict["name"]: verdict for verdict in routing.judge(rows)}
    assert verdicts[routing.BAR]["value"] == 1.5
    assert live.failed(list(verdicts.values())) == []
    assert [verdict["value"] for verdict in verdicts.values() if not verdict["judged"]] == [1.125, 0.1]


@pytest.mark.parametrize(("shared", "dealt"), [(299.0, 200.0), (0.0, 200.0), (300.0, 0.0)])
def test_a_losing_or_missing_figure_fails_the_bar(shared: float, dealt: float) -> None:
    """What nobody held is no measurement either: a partition of which nothing is known was not beaten."""
    assert live.failed(routing.judge([row(SHARED, shared), row(BY_NUMBER, dealt)])) == [routing.BAR]
    assert live.failed(routing.judge([row(SHARED, 300.0)])) == [routing.BAR]


def test_void_probes_are_shown() -> None:
    probe = {
        "offered_per_s": 300.0, "goodput": 0.5, "refused": 7, "p50_ms": None, "p99_ms": 12.0, "batches": {},
        "void": True,
    }  # fmt: skip
    text = routing.table([row(BY_NUMBER, 10.0, most_asked=0.51, void=1, probes=[probe])])
    assert "51% of the requests" in text
    assert "1 of 1" in text
    assert text.rstrip().endswith("void")


def test_the_script_starts() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "routing.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


def simulated(*options: str) -> Any:
    command = [sys.executable, ROOT / "benchmarks" / "simulate.py", "--json", "--duration", "4", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["rows"]


SLOW = ("--alpha-ms", "40", "--beta-ms", "4", "--target-ms", "400")


def test_simulate_deals_models_out() -> None:
    asked = ("--models", "10", "--workers", "5", "--partition", "shared,number,popularity", "--rate", "450")
    rows = {row["partition"]: row for row in simulated(*SLOW, *asked)}
    assert rows["shared"]["goodput"] > 0.97 > rows["number"]["goodput"]
    assert rows["shared"]["parts"] == []
    assert sorted(map(len, rows["number"]["parts"])) == [2] * 5
    assert set(rows["popularity"]["models"]) == set(NAMES)


def test_simulate_takes_models_of_their_own_tenants_and_admission() -> None:
    asked = ("--model", "big=40,4,3", "--model", "small=4,1", "--rate", "400", "--tenants", "2", "--weights", "1,3")
    on, off = simulated(*asked, "--deadline-ms", "400", "--admission", "on,off")
    assert on["models"]["big"]["offered"] > 2 * on["models"]["small"]["offered"]
    assert (on["admission"], off["admission"]) == (True, False)
    assert on["refused"] > 0 == off["refused"]
    assert off["device_s"]["t1"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--partition", "thirds"), "no partition 'thirds'"),
        (("--admission", "maybe"), "no admission 'maybe'"),
        (("--partition", "number", "--workers", "2"), "cannot be dealt out"),
        (("--model", "big=4"), "not usable"),
        (("--weights", "1,2"), "2 weights for 1 tenants"),
    ],
)
def test_simulate_names_what_it_cannot_imagine(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import simulate

    assert simulate.main(["--duration", "1", *options]) == 2
    assert said in capsys.readouterr().err
