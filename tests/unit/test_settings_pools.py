"""Pools in the settings: every way to write them, and errors that name the pool and what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.settings import PoolSettings, Settings

POOLS: dict[str, Any] = {
    "gpu": {"models": ["embed", "rerank"], "device": "cuda", "devices": ["0", "1"], "share": 2, "max": 4},
    "cpu": {"min": 0, "memory": "2GiB", "threads": 2, "targets": {"interactive": 0.5}},
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [n for n in os.environ if n.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("source", ["variable", "variables", "toml", "secret", "keyword", "keyword as text", "child"])
def test_pools_can_be_written_wherever_settings_are(clean: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    keywords: dict[str, Any] = {}
    if source == "variable":
        monkeypatch.setenv("PENSTOCK_POOLS", json.dumps(POOLS))
    elif source == "variables":
        for name, value in {
            "gpu__MODELS": "embed,rerank",
            "gpu__DEVICE": "cuda",
            "gpu__DEVICES": "0,1",
            "gpu__SHARE": "2",
            "gpu__MAX": "4",
            "cpu": '{"min": 0, "memory": "2GiB"}',
            "cpu__THREADS": "2",
            "cpu__TARGETS__INTERACTIVE": "0.5",
        }.items():
            monkeypatch.setenv(f"PENSTOCK_POOLS__{name}", value)
    elif source == "toml":
        (clean / "penstock.toml").write_text(
            '[pools.gpu]\nmodels = ["embed", "rerank"]\ndevice = "cuda"\ndevices = [0, 1]\nshare = 2\nmax = 4\n'
            '[pools.cpu]\nmin = 0\nmemory = "2GiB"\nthreads = 2\ntargets.interactive = 0.5\n'
        )
    elif source == "secret":
        (clean / "secrets").mkdir()
        (clean / "secrets" / "PENSTOCK_POOLS").write_text(json.dumps(POOLS))
        monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(clean / "secrets"))
    elif source == "child":
        for name, value in Settings.load(pools=POOLS).environ().items():
            monkeypatch.setenv(name, value)
    else:
        keywords = {"pools": json.dumps(POOLS) if source == "keyword as text" else POOLS}
    settings = Settings.load(**keywords)
    assert settings.pools == {name: PoolSettings(**pool) for name, pool in POOLS.items()}
    assert settings.pool("gpu").devices == ["0", "1"] and settings.pool("cpu").memory_bytes == 2 * 2**30


def test_a_pool_that_is_not_named_has_the_defaults() -> None:
    pool = Settings.load(pools=POOLS).pool("other")
    assert (pool.min, pool.max, pool.warm, pool.share, pool.models) == (1, None, 0, 1, [])


def test_a_worker_reads_what_is_set_of_its_pool() -> None:
    settings = Settings.load(
        pools=POOLS | {"big": {"device_memory": "8GiB"}}, worker={"device": "cuda:1", "memory": "4GiB", "drain_s": 3}
    )
    own = settings.of_pool("cpu")
    assert (own.lanes.interactive.target, own.lanes.background.target) == (0.5, 60.0)
    assert (own.worker.device, own.worker.memory, own.worker.drain_s) == ("cpu", "4GiB", 3.0)
    assert settings.of_pool("gpu").worker.device == "cuda"
    assert (settings.of_pool("big").worker.device, settings.of_pool("big").worker.memory) == ("cuda:1", "8GiB")
    assert settings.of_pool("other") == settings.of_pool(None) == settings
    assert Settings.load(pools={"cpu": {"device": "cuda"}}).of_pool("cpu").worker.device == "cuda"


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ({"gpu": {"modles": ["a"]}}, "did you mean pools.gpu.models?"),
        ({"gpu": {"targets": {"interactiv": 1}}}, "did you mean pools.gpu.targets.interactive?"),
        ({"gpu": {"max": 1, "min": 2}}, "pools.gpu: min is 2, more than max, which is 1"),
        ({"gpu": {"max": 1, "warm": 3}}, "pools.gpu: warm is 3, more than max, which is 1"),
        ({"gpu": {"device": "cuda:1"}}, "pools.gpu.device: this is a kind of device"),
        ({"gpu": {"device": "cpu", "devices": [0]}}, 'pools.gpu: devices are named, and device is "cpu"'),
        ({"gpu": {"memory": "8 apples"}}, 'pools.gpu.memory: write it as "512MiB" or "2GiB"'),
        ({"gpu": {"memory": "0GiB"}}, 'pools.gpu.memory: write it as "512MiB" or "2GiB"'),
        ({"gpu": {"device_memory": "9999999999GiB"}}, "pools.gpu.device_memory: no device has so much memory"),
        ({"gpu": {"models": 3}}, "pools.gpu.models"),
        ({"gpu": 3}, "pools.gpu"),
        ({"Big GPU": {}}, "pools: 'Big GPU' is no name of a pool"),
        ({"a": {"models": ["embed"]}, "b": {"models": ["x", "embed"]}}, "model 'embed' is in pools a and b"),
        ("gpu", "pools: this is not a JSON object"),
    ],
)
def test_an_error_names_the_pool_and_the_fix(monkeypatch: pytest.MonkeyPatch, pools: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(pools=pools)
    assert says in caught.value.message
    monkeypatch.setenv("PENSTOCK_POOLS", pools if isinstance(pools, str) else json.dumps(pools))
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert says in caught.value.message and caught.value.fix == "correct the variable PENSTOCK_POOLS"


def test_an_error_names_the_variable_of_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_POOLS__gpu__MAX", "many")
    with pytest.raises(ConfigError, match=r"pools\.gpu\.max") as caught:
        Settings.load()
    assert caught.value.fix == "correct the variable PENSTOCK_POOLS__gpu__MAX"


def test_a_misspelt_term_of_a_tenant_is_told_as_well() -> None:
    with pytest.raises(ConfigError, match=r"did you mean tenants\.acme\.weight\?"):
        Settings.load(tenants={"acme": {"wieght": 2}})
