"""Settings: order of the sources, typos, secrets."""

from __future__ import annotations

import json
import math
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from penstock.errors import ConfigError
from penstock.settings import Settings
from penstock.sources import each_of


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_with_nothing_set_everything_is_under_home(clean):
    settings = Settings.load(home=clean / "h")
    assert settings.embedded_broker
    assert settings.database == f"sqlite:///{clean}/h/penstock.db"
    assert settings.broker.startswith("redis+socket:///")


def test_a_long_home_gets_a_short_socket(clean):
    socket = Settings.load(home=clean / ("x" * 150)).broker_socket
    assert len(str(socket)) < 100


def test_order_flags_over_environment_over_file(clean, monkeypatch):
    (clean / "penstock.toml").write_text('namespace = "file"\nlog_level = "error"\n[retry]\nlosses = 9\n')
    assert Settings.load().namespace == "file"
    monkeypatch.setenv("PENSTOCK_NAMESPACE", "env")
    assert Settings.load().namespace == "env"
    settings = Settings.load(namespace="flag")
    assert (settings.namespace, settings.log_level, settings.retry.losses) == ("flag", "error", 9)


def test_secrets_directory(clean, monkeypatch):
    (clean / "secrets").mkdir()
    (clean / "secrets" / "PENSTOCK_BROKER_URL").write_text("redis://:hush@h/0")
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(clean / "secrets"))
    assert Settings.load().broker_url == "redis://:hush@h/0"


def test_a_secrets_directory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", "/nope")
    with pytest.raises(ConfigError, match="PENSTOCK_SECRETS_DIR is /nope"):
        Settings.load()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PENSTOCK_BROKER", "redis://x", "did you mean PENSTOCK_BROKER_URL"),
        ("PENSTOCK_LANES__INTERACTIVE__TARGETS", "1", "targets"),
        ("PENSTOCK_RETRY__LOSSES", "many", "retry.losses"),
        ("PENSTOCK_NAMESPACE", "Not ok", "namespace"),
    ],
)
def test_a_typo_is_an_error(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        Settings.load()


@pytest.mark.parametrize(
    ("variable", "value", "says", "fix"),
    [
        ("PENSTOCK_LEASE__TTL_Z", "3", "did you mean lease.ttl_s", "correct the variable PENSTOCK_LEASE__TTL_Z"),
        ("PENSTOCK_LEASE", '{"ttl_z": 3}', "did you mean lease.ttl_s", "correct the variable PENSTOCK_LEASE"),
        ("PENSTOCK_DASHBOARD__PORT", "99999", "less than or equal to 65535", "PENSTOCK_DASHBOARD__PORT"),
        (
            "PENSTOCK_AUTOSCALER__BACKEND",
            "kubernets",
            "autoscaler.backend: 'kubernets' is not local, kubernetes or external, did you mean kubernetes?",
            "correct the variable PENSTOCK_AUTOSCALER__BACKEND",
        ),
        ("PENSTOCK_LOG_LEVEL", "7", "log_level: '7' is not debug, info, warning or error", "PENSTOCK_LOG_LEVEL"),
        ("PENSTOCK_FOO", "1", "unknown setting PENSTOCK_FOO", "unset PENSTOCK_FOO"),
    ],
)
def test_a_wrong_setting_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str, fix: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert says in caught.value.message
    assert fix in caught.value.fix


def test_a_wrong_setting_names_the_file_or_the_flag(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / "penstock.toml").write_text("[lease]\nttl = 3\n")
    with pytest.raises(ConfigError, match=r"lease\.ttl_s\?\n  fix: correct the file penstock\.toml"):
        Settings.load()
    (clean / "penstock.toml").unlink()
    with pytest.raises(ConfigError, match=r"correct lease\.ttl_s as it was passed"):
        Settings.load(lease={"ttl_s": -1})
    monkeypatch.setenv("PENSTOCK_LEASE__TTL_S", "-1")
    with pytest.raises(ConfigError, match="correct the variable PENSTOCK_LEASE__TTL_S"):
        Settings.load(lease={"heartbeat_s": 1})
    monkeypatch.delenv("PENSTOCK_LEASE__TTL_S")
    (clean / "secrets").mkdir()
    (clean / "secrets" / "PENSTOCK_NAMESPACE").write_text("Not ok")
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(clean / "secrets"))
    with pytest.raises(ConfigError, match=r"correct the file .*secrets/PENSTOCK_NAMESPACE"):
        Settings.load()


def test_a_broken_file_is_an_error(clean):
    (clean / "penstock.toml").write_text("namespace = ")
    with pytest.raises(ConfigError, match=r"penstock\.toml"):
        Settings.load()
    (clean / "penstock.toml").write_text("namespaze = 'x'")
    with pytest.raises(ConfigError, match="namespaze"):
        Settings.load()


def test_environ_hands_all_settings_to_a_child(monkeypatch, clean):
    settings = Settings.load(
        home=clean, models=["a", "b.c:D"], namespace="n1", webhook={"secrets": ["whsec_abc"]}, lease={"ttl_s": 3}
    )
    for name, value in settings.environ().items():
        monkeypatch.setenv(name, value)
    child = Settings.load()
    assert child == settings
    assert child.webhook.secrets[0].get_secret_value() == "whsec_abc"


def test_secrets_are_not_shown(monkeypatch):
    monkeypatch.setenv("PENSTOCK_WEBHOOK__SECRETS", '["whsec_topsecret"]')
    monkeypatch.setenv("PENSTOCK_DASHBOARD__BASIC_AUTH", "me:topsecret")
    assert "topsecret" not in repr(Settings.load())


def test_the_backend_of_plain_tasks_by_variables_and_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CELERY__TASK_RESULT_URL", "db+postgresql://shop:hunter2@db/shop")
    monkeypatch.setenv("PENSTOCK_CELERY__TASK_RESULT_OPTIONS", '{"database_table_names": {"task": "r"}}')
    loaded = Settings.load()
    assert loaded.celery.task_result_options == {"database_table_names": {"task": "r"}}
    for name, value in loaded.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PENSTOCK_CELERY__TASK_RESULT_URL")
    monkeypatch.delenv("PENSTOCK_CELERY__TASK_RESULT_OPTIONS")
    assert Settings.load().celery == loaded.celery and "hunter2" not in repr(loaded)
    monkeypatch.delenv("PENSTOCK_CELERY")
    monkeypatch.setenv("PENSTOCK_CELERY__TASK_RESULT_URL", "")
    assert Settings.load().celery.task_result_url is None
    for name in ("broker_url", "task_serializer", "result", "os.system"):
        with pytest.raises(ConfigError, match="no setting of Celery's about results"):
            Settings.load(celery={"task_result_options": {name: 1}})


def test_tenants_by_variable_and_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TENANTS", '{"acme": {"weight": 2, "cap": 3}, "b c": {}}')
    loaded = Settings.load()
    assert (loaded.tenants["acme"].weight, loaded.tenants["acme"].cap) == (2.0, 3)
    for name, value in loaded.environ().items():
        monkeypatch.setenv(name, value)
    assert Settings.load().tenants == loaded.tenants


def test_one_variable_per_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TENANTS__acme__CAP", "7")
    assert Settings.load().tenants["acme"].cap == 7


@pytest.mark.parametrize("terms", [{"weight": 0}, {"weight": -1}, {"weight": "inf"}, {"cap": 0}, {"wieght": 2}])
def test_terms_that_make_no_sense_are_refused(terms: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="acme"):
        Settings.load(tenants={"acme": terms})


# Texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["variable", "section", "secret file", "toml", "toml list", "keyword"])
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("models", "a,b.c:D", ["a", "b.c:D"]),
        ("models", "a b.c:D", ["a", "b.c:D"]),
        ("models", '["a", "b.c:D"]', ["a", "b.c:D"]),
        ("models", "alone", ["alone"]),
        ("models", "[]", []),
        ("webhook.secrets", "whsec_a,whsec_b", ["whsec_a", "whsec_b"]),
        ("webhook.secrets", '["whsec_a"]', ["whsec_a"]),
        ("webhook.secrets", "whsec_a", ["whsec_a"]),
        ("tenants", '{"acme": {"weight": 2, "cap": 3}}', {"acme": (2.0, 3)}),
        ("tenants", "acme=2, b c=0.5", {"acme": (2.0, None), "b c": (0.5, None)}),
    ],
)
def test_lists_are_json_or_words_everywhere(
    clean: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str, text: str, expected: object
) -> None:
    variable, (*section, last) = f"PENSTOCK_{name.replace('.', '__').upper()}", name.split(".")
    keywords: dict[str, object] = {section[0]: {last: text}} if section else {last: text}
    if source == "variable":
        monkeypatch.setenv(variable, text)
    elif source == "section":
        monkeypatch.setenv(f"PENSTOCK_{(section or [last])[0].upper()}", json.dumps({last: text}) if section else text)
    elif source == "secret file":
        (clean / "secrets").mkdir()
        (clean / "secrets" / variable).write_text(f"{text}\n")
        monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(clean / "secrets"))
    elif source.startswith("toml"):
        value = text
        if source == "toml list" and isinstance(expected, list):
            value = expected  # type: ignore[assignment]
        head = f"[{section[0]}]\n" if section else ""
        (clean / "penstock.toml").write_text(f"{head}{last} = {json.dumps(value)}\n")
    settings = Settings.load(**(keywords if source == "keyword" else {}))
    if name == "models":
        assert settings.models == expected
    elif name == "tenants":
        assert {tenant: (terms.weight, terms.cap) for tenant, terms in settings.tenants.items()} == expected
    else:
        assert [secret.get_secret_value() for secret in settings.webhook.secrets] == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PENSTOCK_WEBHOOK__SECRETS", "[hunter2"),
        ("PENSTOCK_WEBHOOK__SECRETS", '{"a": "hunter2"}'),
        ("PENSTOCK_WEBHOOK__SECRETS", "[[1], {}]"),
        ("PENSTOCK_WEBHOOK", "hunter2"),
        ("PENSTOCK_WEBHOOK", '["hunter2"]'),
        ("PENSTOCK_TENANTS", "hunter2"),
        ("PENSTOCK_TENANTS", "acme=hunter2"),
        ("PENSTOCK_TENANTS", '{"acme": "hunter2"}'),
        ("PENSTOCK_TENANTS", "{hunter2"),
        ("PENSTOCK_TENANTS__acme", "hunter2"),
        ("PENSTOCK_TENANTS__acme__CAP", "hunter2"),
        ("PENSTOCK_MODELS", '["hunter2"'),
        ("PENSTOCK_MODELS", '{"hunter2": 1}'),
        ("PENSTOCK_LEASE", "hunter2"),
        ("PENSTOCK_LEASE", "[" * 100_000),
        ("PENSTOCK_LEASE__TTL_S", "hunter2"),
        ("PENSTOCK_LANES__INTERACTIVE", "hunter2"),
        ("PENSTOCK_DASHBOARD__PORT", "hunter2"),
    ],
)
def test_a_wrong_text_names_its_place_and_is_not_shown(
    clean: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert caught.value.fix == f"correct the variable {name}"
    assert "hunter2" not in str(caught.value) and len(caught.value.message) < 300
    monkeypatch.delenv(name)
    (clean / "secrets").mkdir()
    (clean / "secrets" / name).write_text(text)
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(clean / "secrets"))
    with pytest.raises(ConfigError, match=f"correct the file .*{name}"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("PENSTOCK_LEASE_TTL_S", "did you mean PENSTOCK_LEASE__TTL_S"),
        ("PENSTOCK_DATABASE", "did you mean PENSTOCK_DATABASE_URL"),
        ("PENSTOCK_WEBHOOK_SECRET", "did you mean PENSTOCK_WEBHOOK__SECRETS"),
        ("PENSTOCK_ZZZ", "penstock has no such setting"),
    ],
)
def test_a_misspelt_name_is_told_wherever_it_stands(
    clean: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(ConfigError, match=says) as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv(name)
    (clean / "secrets").mkdir()
    (clean / "secrets" / name).write_text("hunter2")
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(clean / "secrets"))
    with pytest.raises(ConfigError, match=says):
        Settings.load()


def test_an_empty_variable_is_not_set(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HOME",
        "BROKER_URL",
        "DATABASE_URL",
        "MODELS",
        "WEBHOOK__SECRETS",
        "LEASE",
        "TENANTS",
        "LEASE__TTL_S",
    ):
        monkeypatch.setenv(f"PENSTOCK_{name}", "")
    monkeypatch.setenv("PENSTOCK_CONFIG", "")
    assert Settings.load() == Settings()
    assert Settings.load(broker_url="", database_url=" ").embedded_broker


def test_without_a_home_folder(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for home in (None, ""):
        monkeypatch.delenv("HOME", raising=False)
        if home is not None:
            monkeypatch.setenv("HOME", home)
        with pytest.raises(ConfigError, match=r"HOME is not set.*PENSTOCK_HOME"):
            Settings.load()
        assert Settings.load(home=clean).home == clean
    with pytest.raises(ConfigError, match="no user ~nobody_of_this_name"):
        Settings.load(home="~nobody_of_this_name/x")
    monkeypatch.undo()
    monkeypatch.delenv("HOME", raising=False)
    assert Settings.load().home == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".penstock"


# Numbers ----------------------------------------------------------------------------------------------------------


def numbers(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every number in the settings; one name stands for all where there is a section per name."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from numbers(inner, (*path, name))
        elif (each := each_of(inner)) is not None:
            yield from numbers(each, (*path, name, "acme"))
        elif any(kind in re.findall(r"\w+", str(inner)) for kind in ("int", "float")):
            yield (*path, name)


NUMBERS = [*numbers(Settings)]


def test_the_walk_finds_the_numbers() -> None:
    assert len(NUMBERS) >= 30
    assert {
        ("lease", "heartbeat_s"),
        ("tenants", "acme", "cap"),
        ("pools", "acme", "max"),
        ("lanes", "background", "target"),
    } <= {*NUMBERS}


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_every_number_has_bounds(path: tuple[str, ...]) -> None:
    for value in (math.inf, -math.inf, math.nan, "inf", "nan", 1e308, 10**20, -1, -1e-9, "-1", "1e308", 10**400):
        nested: Any = value
        for name in reversed(path):
            nested = {name: nested}
        with pytest.raises(ConfigError, match=re.escape(".".join(path))):
            Settings.load(**nested)


def test_a_heartbeat_longer_than_its_lease() -> None:
    with pytest.raises(ConfigError, match="lease: heartbeat_s must be less than ttl_s"):
        Settings.load(lease={"ttl_s": 5, "heartbeat_s": 5})
