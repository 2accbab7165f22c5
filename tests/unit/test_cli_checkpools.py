"""What doctor says of pools."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.policy.pools import Want
from penstock.settings import Settings
from penstock.store.records import WorkerInfo
from penstock_cli.checkpools import judge

POOLS = Settings(
    pools={"gpu": {"models": ["embed", "rerank"], "device_memory": "1GiB"}, "idle": {"min": 0}}
).served_pools()


def worker(pool: str, **models: str) -> WorkerInfo:
    """A live one; of each model, the pool that it announced."""
    return WorkerInfo(
        instance=f"{pool}:1",
        name=f"penstock-{pool}@h",
        pool=pool,
        started_at=0.0,
        seen_at=0.0,
        lease_until=9e9,
        info={"models": {name: {"pool": own} for name, own in models.items()}},
    )


def said(known: list[Want], *live: WorkerInfo, pools: Any = POOLS) -> list[tuple[str, str]]:
    names = {want.name: want for want in known}
    return [*judge(names, pools, live, expected=names, may_be_empty={"idle"})]


def test_all_is_well() -> None:
    wants = [Want(name="embed"), Want(name="rerank"), Want(name="late", pool="idle")]
    assert said(wants, worker("gpu", embed="gpu", rerank="gpu")) == []


@pytest.mark.parametrize(
    ("known", "live", "detail", "fix"),
    [
        ([Want(name="embed"), Want(name="rerunk")], (), "pools.gpu.models names 'rerank'", "did you mean 'rerunk'?"),
        ([Want(name="embed")], (), "pools.gpu.models names 'rerank'", "take it out, or name the module"),
        ([Want(name="embed"), Want(name="rerank", memory=2**31)], (), "'rerank' is served by no pool", "device_memory"),
        ([Want(name="embed"), Want(name="rerank")], (), "no worker serves model 'embed'", "worker --pool gpu"),
        (
            [Want(name="embed"), Want(name="rerank"), Want(name="new")],
            (),
            "no worker serves model 'new'",
            "penstock up",
        ),
        ([Want(name="embed")], (worker("default", embed="default"),), "put it into gpu", "start the workers again"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    known: list[Want], live: tuple[WorkerInfo, ...], detail: str, fix: str
) -> None:
    assert any(detail in a and fix in b for a, b in said(known, *live))


def test_without_pools_in_the_settings_only_what_nobody_serves_is_told() -> None:
    [(detail, _)] = said([Want(name="a", pool="x"), Want(name="b")], worker("x", a="x"), pools={})
    assert detail == "no worker serves model 'b' now; it is of pool default"
