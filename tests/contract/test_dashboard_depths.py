"""Flower's lengths of queues that tenants share: ours and a plain Flower's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from flower.utils import broker as flower

from penstock.dashboard.depths import install
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.publisher import register
from penstock.transport.url import for_kombu
from penstock.transport.wire import Wire

Q, OTHER = "ns.embed.interactive", "celery"


def lengths(url: str, *names: str) -> dict[str, int]:
    async def ask() -> dict[str, int]:
        rows = await flower.Broker(for_kombu(url).url, broker_options={}).queues(names)
        return {row["name"]: row["messages"] for row in rows}

    return asyncio.run(ask())


@pytest.fixture(autouse=True)
def stock_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the installation afterwards."""
    monkeypatch.setattr(flower.RedisBase, "queues", flower.RedisBase.queues)


def test_every_tenants_messages_count(broker_url: str, broker: redis.Redis) -> None:
    broker.lpush(OTHER, "x")
    for tenant, priority, count in (("default", 0, 3), ("default", 9, 2), ("acme", 0, 4), ("a b", 6, 5)):
        broker.lpush(keys.list_key(Q, priority, tenant), *["m"] * count)
        if tenant != "default":
            Wire(broker)([register("ns", Q, [tenant])])
    assert lengths(broker_url, Q, OTHER) == {Q: 5, OTHER: 1}, "what a stock Flower sees"
    for _ in range(2):  # installed twice is installed once
        install("ns")
        assert lengths(broker_url, OTHER, Q, "ns.none.interactive") == {OTHER: 1, Q: 14, "ns.none.interactive": 0}


def test_a_plain_flower_of_the_workers_app_counts_them(settings: Settings, tmp_path: Path) -> None:
    """`flower -A penstock_worker.app`: Flower is imported, then the app."""
    code = (
        "import flower.command; from penstock_worker.app import app; from flower.utils.broker import RedisBase; "
        "print(hasattr(RedisBase.queues, 'stock'))"
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **settings.environ()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.strip() == "True", done.stderr
