"""What the command line decides without touching anything: plans, rates, guesses, exit statuses, texts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import redis

from penstock import __version__, clock
from penstock import errors as tree
from penstock.dispatch.daemon import Dispatcher
from penstock.errors import ConfigError
from penstock.policy.placing import Device, Machine
from penstock.processes.agreed import restart_delay_s
from penstock.processes.lastwords import last_error, last_words
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import parse as parse_broker
from penstock.transport.url import unavailable
from penstock.urltext import safe_url
from penstock.webhooks import new_key
from penstock_cli import checks, checkversions, errors
from penstock_cli.checks import judge_broker, judge_disk
from penstock_cli.effective import effective
from penstock_cli.params import Duration, Tag
from penstock_cli.progress import Rate
from penstock_cli.up.probe import ModelInfo, look, placed, sample_of
from penstock_cli.up.ready import example_command
from penstock_cli.up.workers import sized
from penstock_worker.app import build
from tests.fixtures.client import until


def model(name: str = "double", pool: str = "default", example: str | None = "21") -> ModelInfo:
    return ModelInfo(name=name, pool=pool, doc="", example=example)


# The plan of `up` -------------------------------------------------------------------------------------------------


HERE = Machine(cores=8.0, memory=2**36)


def test_each_pool_has_as_many_workers_as_were_asked_for() -> None:
    sizes = sized(Settings(pools={"gpu": {"max": 8, "share": 2}}), ["cpu", "gpu"], 3, HERE)
    assert [(sizes.pool(name).min, sizes.pool(name).max) for name in ("cpu", "gpu")] == [(3, 3), (3, 3)]
    assert sizes.pool("gpu").share == 2
    assert sized(Settings(), ["cpu"], 0, HERE).pool("cpu").max == 0


def test_without_a_number_the_settings_say_it() -> None:
    settings = Settings(pools={"gpu": {"max": 8}})
    assert sized(settings, ["cpu", "gpu"], None, HERE) == settings


def test_more_workers_than_devices_share_them() -> None:
    two = replace(HERE, devices=(Device(id="a", index=0), Device(id="b", index=1)))
    assert sized(Settings(), ["gpu"], 5, two).pool("gpu").share == 3
    assert sized(Settings(), ["gpu"], 2, two).pool("gpu").share == 1


def test_up_serves_models_where_the_settings_put_them_and_says_what_no_pool_can_hold() -> None:
    pools = Settings(pools={"gpu": {"models": ["b", "c"], "device_memory": "1GiB"}}).served_pools()
    models = [model("a"), model("b", "cpu"), replace(model("c"), memory=2**31)]
    found, faults = placed(models, pools)
    assert [(each.name, each.pool) for each in found] == [("a", "default"), ("b", "gpu")]
    assert len(faults) == 1 and faults[0].startswith("model 'c' is not served: it needs 2 GiB")


def test_restarts_slow_down_to_a_bound() -> None:
    delays = [restart_delay_s(crashes) for crashes in range(1, 30)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays == sorted(delays) and delays[-1] == 30.0


@pytest.mark.parametrize(
    ("schema", "sample"),
    [
        ({"type": "string"}, "hello"),
        ({"type": "integer"}, 1),
        ({"type": "number", "minimum": 5}, 5),
        ({"type": "array", "items": {"type": "number"}}, [1]),
        ({"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}, {"q": "hello"}),
        ({"enum": ["a", "b"]}, "a"),
        ({"type": "string", "format": "date"}, None),
        ({"type": "object"}, None),
        ({"$ref": "#/x"}, None),
        ({}, None),
    ],
)
def test_a_sample_fits_its_schema_or_is_not_given(schema: dict[str, Any], sample: Any) -> None:
    assert sample_of(schema) == sample


def test_the_next_command_names_a_model_that_has_an_example(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    command = example_command(settings, [model("a", example=None), model("b", example='"it\'s"')])
    assert command is not None
    assert shlex.split(command) == ["penstock", "run", "--home", str(tmp_path), "b", '"it\'s"']
    assert example_command(settings, []) is None
    function = replace(model("pick"), function=True)
    assert shlex.split(example_command(settings, [function, model("b", example="1")]) or "")[-2:] == ["b", "1"]


def test_the_next_command_finds_the_servers(tmp_path: Path) -> None:
    """Those of a variable that only this terminal has; passwords do not go into a history."""
    servers = {"broker_url": "redis://host:6390/0", "database_url": "postgresql://me:secret@host/db"}
    command = example_command(Settings.load(home=tmp_path, **servers), [model()])
    assert command == f"penstock run --home {tmp_path} --broker-url redis://host:6390/0 double 21"


def test_the_usual_home_is_not_repeated() -> None:
    command = example_command(Settings.load(home=Path("~/.penstock")), [model()])
    assert command == "penstock run double 21"


# Texts ------------------------------------------------------------------------------------------------------------


def test_no_password_is_shown() -> None:
    assert safe_url("redis://me:secret@host:6379/0") == "redis://me:…@host:6379/0"
    assert safe_url("redis://:secret@host/0") == "redis://:…@host/0"
    assert safe_url("sentinel://:a@h:1;sentinel://:b@i:1/0") == "sentinel://:…@h:1;sentinel://:…@i:1/0"
    assert safe_url("postgresql:///db?user=me&password=secret&x=1") == "postgresql:///db?user=me&password=…&x=…"
    assert safe_url("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"


@pytest.mark.parametrize(
    "url",
    ["hunter2", "", "redis:hunter2", "redis:/hunter2", "hunter2://host/0", "hunter2@host", "redis://hunter2@host/0",
     "redis://:hunt/hunter2@host/0", "redis://:1/hunter2@host/0", "redis://me:1?hunter2@host", "redis://me:1#hunter2",
     "redis://me:hunter2@host:port/0", "redis://host/hunter2", "redis://host/0?hunter2", "redis://host/0?x=hunter2",
     "redis://host/0?hunter2=", "redis://[hunter2", "redis://host:hunter2", "redis://ho st:1 hunter2",
     "sentinel://:x;hunter2@h:1/0?master_name=m", "postgresql://me:a;hunter2@host/db", "postgresql://me:a@hunter2@host",
     "postgresql://me:a#hunter2@host/db", "postgresql://me:hunter2@host,other:5432/db", "postgresql://h/db#hunter2",
     "postgresql://h/db?options=hunter2", "sqlite:hunter2", "mysql://me:hunter2@h/db", "redis+socket://:hunter2@/a.sock",
     "unix://hunter2@/a.sock", "redis://host\nhunter2", "//hunter2", "http://me:hunter2@host/x"],
)  # fmt: skip
def test_what_may_be_a_secret_is_not_shown_wherever_it_stands(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a list of settings, and not in an error of who tries to use it."""
    assert "hunter2" not in safe_url(url)
    for name in ("BROKER", "RESULT", "ARTIFACT", "DATABASE"):
        monkeypatch.setenv(f"PENSTOCK_{name}_URL", url)
    settings = Settings.load(home=tmp_path)
    assert "hunter2" not in repr(effective(settings))
    for use in (lambda: unavailable(parse_broker(url), OSError("refused")), lambda: Store.open(url)):
        try:
            told = use()
        except tree.PenstockError as error:
            told = error
        assert "hunter2" not in str(told)


def test_what_is_no_secret_is_shown() -> None:
    for url in (
        "redis://host",
        "rediss://[::1]:7000/1?ssl_cert_reqs=none",
        "sentinel://a:1;sentinel://b:2/3?master_name=main",
        "redis+socket:///run/a.sock?virtual_host=2",
        "postgresql+psycopg://me@one:5432,two:5433/db?sslmode=require",
        "sqlite:////home/a@b/penstock.db",
    ):
        assert safe_url(url) == url


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90.0), ("1.5m", 90.0), ("250ms", 0.25), ("2h", 7200.0), ("7d", 604800.0), ("0", 0.0), (" 5 s ", 5.0)],
)
def test_durations(text: str, value: float) -> None:
    assert Duration().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 years", "1e3", "1.2.3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no duration"):
        Duration().convert(text, None, None)


def test_tags() -> None:
    assert Tag().convert("a=b=c", None, None) == ("a", "b=c")
    with pytest.raises(click.BadParameter):
        Tag().convert("a", None, None)


def test_the_rate_follows_what_happened_lately() -> None:
    rate = Rate(0.0)
    for second in range(1, 101):
        rate.add(second * 100, float(second))
    assert rate.per_s(100.0) == pytest.approx(100, rel=0.15)
    for second in range(101, 121):
        rate.add(10_000 + (second - 100) * 10, float(second))
    assert rate.per_s(120.0) == pytest.approx(10, rel=0.15)


def test_the_rate_of_nothing_is_none() -> None:
    assert Rate(5.0).per_s(5.0) == 0.0


# Exit statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (tree.JobFailed("x", job_id="1"), 1),
        (tree.JobCancelled("x", job_id="1"), 1),
        (tree.ModelLoadFailed("x"), 1),
        (tree.SignatureInvalid("x"), 1),
        (tree.ConfigError("x"), 2),
        (tree.UnknownModel("x"), 2),
        (tree.TooLarge("x"), 2),
        (tree.JobNotFound("x"), 2),
        (tree.IllegalTransition("x"), 2),
        (tree.BrokerUnavailable("x"), 3),
        (tree.SchemaOutdated("x"), 3),
        (tree.ResultTimeout("x"), 4),
    ],
)
def test_exit_status_of_each_kind(error: tree.PenstockError, status: int) -> None:
    assert errors.status_of(error) == status


# Settings and their sources ---------------------------------------------------------------------------------------


def test_each_setting_names_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "penstock.toml").write_text("log_level = 'error'\n[lease]\nttl_s = 9\n[retry]\nfailures = 1\n")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "penstock_broker_url").write_text("redis://me:hunter2@host/0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.setenv("PENSTOCK_LEASE__TTL_S", "8")
    monkeypatch.setenv("PENSTOCK_RETENTION", '{"jobs_s": 5}')
    flags = {"home": str(tmp_path), "webhook": {"secrets": ["whsec_" + "A" * 32]}}
    found = {item.name: item for item in effective(Settings.load(**flags), flags)}
    assert (found["home"].value, found["home"].source) == (str(tmp_path), "flag")
    assert (found["lease.ttl_s"].value, found["lease.ttl_s"].source) == (8.0, "PENSTOCK_LEASE__TTL_S")
    assert (found["retention.jobs_s"].value, found["retention.jobs_s"].source) == (5.0, "PENSTOCK_RETENTION")
    assert (found["retry.failures"].value, found["retry.failures"].source) == (1, "penstock.toml")
    assert found["job.timeout_s"].source == "default"
    assert found["broker_url"].source.endswith("penstock_broker_url")
    text = repr(list(found.values()))
    assert "hunter2" not in text and "AAAA" not in text
    assert found["webhook.secrets"].value == ["(set, not shown)"]


# The doctor -------------------------------------------------------------------------------------------------------


def test_a_fit_broker_has_no_warnings() -> None:
    info = {"aof_enabled": 1, "maxmemory_policy": "noeviction", "used_memory_human": "1M"}
    assert {finding.status for finding in judge_broker(info, 0.01)} == {"ok"}


def test_an_unfit_broker_gets_a_fix_for_each_fault() -> None:
    info = {"aof_enabled": 0, "maxmemory_policy": "allkeys-lru"}
    found = list(judge_broker(info, -3.0))
    assert [finding.status for finding in found] == ["warning"] * 3
    assert all(finding.fix for finding in found)


def test_the_last_error_of_a_log_is_found() -> None:
    lines = ["error: old", "  fix: a", '{"event": "x"}', "error: new one", "  fix: do this"]
    assert last_error(lines) == ("new one", "do this")
    assert last_error(["error: alone", "more"]) == ("alone", "")
    assert last_error(["  fix: no", "Killed"]) is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["error: no weights", "  fix: bring some", '{"level": "info", "event": "on"}'],
            "no weights (fix: bring some)",
        ),
        (
            ['{"level": "error", "event": "batch failed", "exception": "Trace…\\nKeyError: 1"}'],
            "batch failed: KeyError: 1",
        ),
        (['{"level": "error", "event": "gone", "error": "no route"}', "not { json"], "gone: no route"),
        (
            ["Traceback (most recent call last):", "  File x", "torch.OutOfMemoryError: CUDA"],
            "torch.OutOfMemoryError: CUDA",
        ),
        (["Fatal Python error: Segmentation fault"], "Fatal Python error: Segmentation fault"),
        (["{broken", '{"level": "error", "event": "silent", "action": "supervisor.kill"}', "hello"], None),
        ([], None),
    ],
)
def test_the_last_words_of_a_worker_are_found_in_its_log(lines: list[str], words: str | None) -> None:
    assert last_words(lines) == words


def test_a_worker_whose_clock_is_ahead_is_named(store: Store) -> None:
    at = clock.now()
    for name, ahead_s in (("right", 0.0), ("ahead", 60.0)):
        seen_at = at + ahead_s
        store.register_worker(name, name=name, pool="default", lease_until=seen_at + 30, now=seen_at, info={})
    warnings = [found for found in checks._workers(SimpleNamespace(store=store)) if found.name == "clock"]  # type: ignore[arg-type]
    assert [(found.status, found.detail[:28]) for found in warnings] == [("warning", "the clock of worker ahead is")]


def test_workers_that_define_a_pipeline_differently_are_named(store: Store) -> None:
    at = clock.now()
    for name, graph, ttl_s in (("one", "{}", 30), ("two", "{}", 30), ("three", "[]", 30), ("gone", "1", -1)):
        info = {"pipelines": {"answer": {"graph": graph, "inputs": {}}, "other": {"graph": "{}", "inputs": {}}}}
        store.register_worker(name, name=name, pool="default", lease_until=at + ttl_s, now=at, info=info)
    [(detail, fix)] = checkversions.check(SimpleNamespace(store=store))  # type: ignore[arg-type]
    assert detail == "pipeline 'answer' is not the same graph on all workers: one, two / three"
    assert "started last" in fix


def test_workers_of_one_name_are_told(store: Store) -> None:
    at = clock.now()
    for instance, name, ttl_s in (("1", "a@h", 30), ("2", "a@h", 30), ("3", "b@h", 30), ("4", "b@h", -1)):
        store.register_worker(instance, name=name, pool="default", lease_until=at + ttl_s, now=at, info={})
    found = [f for f in checks._workers(SimpleNamespace(store=store)) if "called" in f.detail]  # type: ignore[arg-type]
    assert [(f.status, f.detail.partition(":")[0]) for f in found] == [("warning", "2 live ones are called a@h")]
    assert "--name" in found[0].fix


def test_a_worker_of_another_version_is_named(store: Store) -> None:
    at = clock.now()
    for name, info in (("same", {"version": __version__}), ("other", {"version": "0.0.1"}), ("older", {})):
        store.register_worker(name, name=name, pool="default", lease_until=at + 30, now=at, info=info)
    found = {f.detail.split()[0]: f for f in checks._workers(SimpleNamespace(store=store))}  # type: ignore[arg-type]
    assert [found[name].status for name in ("same", "other", "older")] == ["ok", "warning", "warning"]
    assert "penstock 0.0.1; here it is" in found["other"].detail


def findings(check: Callable[[], Iterator[checks.Finding]]) -> list[tuple[str, str]]:
    return [(finding.name, finding.status) for finding in check()]


def test_a_broker_that_cannot_be_written_is_an_error(
    broker: redis.Redis, broker_url: str, tmp_path: Path, namespace: str
) -> None:
    settings = Settings.load(home=tmp_path, broker_url=broker_url, namespace=namespace)
    assert ("broker writes", "ok") in findings(lambda: checks._broker(settings))
    assert not broker.keys(f"{namespace}*"), "nothing is left behind"
    broker.config_set("maxmemory", 1)
    try:
        assert ("broker writes", "error") in findings(lambda: checks._broker(settings))
    finally:
        broker.config_set("maxmemory", 0)


def test_a_dispatcher_is_heard_of_or_missed(broker_url: str, sqlite_url: str, tmp_path: Path, namespace: str) -> None:
    settings = Settings.load(home=tmp_path, broker_url=broker_url, database_url=sqlite_url, namespace=namespace)
    assert findings(lambda: checks._dispatcher(settings)) == [("dispatcher", "warning")]
    dispatcher = Dispatcher(settings)
    dispatcher.start()
    try:
        until(lambda: findings(lambda: checks._dispatcher(settings)) == [("dispatcher", "ok")])
    finally:
        dispatcher.stop()


def test_what_there_is_nothing_to_try_of_has_no_line(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, models=[])
    for check in (checks._up, checks._models, checks._dashboard, checks._webhooks):
        assert findings(lambda check=check: check(settings)) == []  # type: ignore[misc]


def test_a_device_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    for device, status in (("cpu", "ok"), ("cuda:99", "error"), ("gpu", "error")):
        worker = settings.worker.model_copy(update={"device": device})
        (found,) = checks._device(settings.model_copy(update={"worker": worker}))
        assert found.status == status, found
        assert bool(found.fix) == (status != "ok")


def test_a_signing_key_is_tried(tmp_path: Path) -> None:
    (tmp_path / "webhook.secret").write_text(new_key())
    (tmp_path / "webhook.secret").chmod(0o600)
    assert findings(lambda: checks._webhooks(Settings.load(home=tmp_path))) == [("webhooks", "ok")]


@pytest.mark.parametrize(
    ("free", "status"), [(0, "error"), (2**24 - 1, "error"), (2**24, "warning"), (2**30 - 1, "warning"), (2**30, "ok")]
)
def test_a_full_disk_is_an_error(free: int, status: str) -> None:
    """Every submission fails there."""
    found = judge_disk(free, Path("/home"))
    assert found.status == status
    assert bool(found.fix) == (status != "ok")


def test_modules_with_pipelines_trip_nobody(tmp_path: Path) -> None:
    models, alone = tmp_path / "with_models.py", tmp_path / "pipelines_alone.py"
    models.write_text(
        "import penstock\n@penstock.step\ndef told(x: int) -> str: return str(x)\n"
        "@penstock.pipeline\ndef tell(x: int): return told(x)\n"
    )
    alone.write_text(
        "import penstock, with_models\n@penstock.pipeline\ndef again(x: int): return with_models.told(x)\n"
    )
    found = look([str(models), str(alone)])
    assert [(info.name, info.function) for info in found.models] == [("told", True)]
    assert list(found.pipelines) == ["tell", "again"]
    only = look([str(alone)])
    assert only.models == [] and list(only.pipelines) == ["again"]
    with pytest.raises(ConfigError, match="no model to serve") as caught:
        build(Settings.load(models=[str(alone)], home=tmp_path))
    assert "besides those that define pipelines" in str(caught.value.fix)
