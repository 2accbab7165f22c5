"""Settings: order of the sources, typos, secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.settings import Settings


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
