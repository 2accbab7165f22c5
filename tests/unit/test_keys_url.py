"""Broker URLs: one spelling for everybody, secrets never shown."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from kombu import Connection
from kombu.transport.redis import Channel
from redis.sentinel import MasterNotFoundError

from penstock.address import socket_url
from penstock.dashboard import depths
from penstock.errors import ConfigError
from penstock.transport.url import connect, for_kombu, parse, redis_kwargs, unavailable
from penstock_worker.canvas.results import bulk_url


def pool_of(url: str) -> dict[str, Any]:
    kwargs: dict[str, Any] = connect(url).connection_pool.connection_kwargs
    return kwargs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"host": "localhost", "port": 6379, "db": 0}),
        ("redis://box", {"host": "box", "port": 6379, "db": 0}),
        ("redis://box:7000/3", {"host": "box", "port": 7000, "db": 3}),
        ("redis://:se%40cret@box/1", {"host": "box", "db": 1, "password": "se@cret"}),
        ("redis://me:secret@[::1]:7000/1", {"host": "::1", "username": "me", "password": "secret"}),
        ("redis+socket:///run/a.sock", {"path": "/run/a.sock", "db": 0}),
        ("redis+socket:///run/a.sock?virtual_host=2", {"path": "/run/a.sock", "db": 2}),
        ("unix:///run/a.sock?db=2", {"path": "/run/a.sock", "db": 2}),
        ("rediss://box", {"host": "box", "ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("rediss://box?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=/ca.pem",
         {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_ca_certs": "/ca.pem"}),
    ],
)  # fmt: skip
def test_every_form_becomes_a_client(url: str, expected: dict[str, Any]) -> None:
    kwargs = pool_of(url)
    if "ssl_cert_reqs" in expected:
        kwargs["ssl_cert_reqs"] = {"none": ssl.CERT_NONE, "required": ssl.CERT_REQUIRED}[kwargs["ssl_cert_reqs"]]
    assert {name: kwargs.get(name) for name in expected} == expected
    assert kwargs["socket_timeout"] == 1.0


def test_sentinels_that_know_no_master_are_told_in_one_sentence() -> None:
    client = "<redis.client.Redis(<redis.connection.ConnectionPool(<redis.connection.Connection(password=hunter2)>)>)>"
    error = MasterNotFoundError(f"No master found for 'main' : {client} - network:ConnectionError")
    said = str(unavailable("sentinel://:hunter2@a:1/0?master_name=main", error))
    assert "No master found for 'main')" in said and "hunter2" not in said


def test_sentinels_become_a_client() -> None:
    url = "sentinel://:secret@a:1;sentinel://b/2?master_name=main"
    broker = parse(url)
    assert broker.hosts == (("a", 1), ("b", 26379))
    assert (broker.db, broker.master_name, broker.password) == (2, "main", "secret")
    pool: Any = connect(url).connection_pool
    assert pool.service_name == "main"
    assert pool.connection_kwargs["db"] == 2
    with pytest.raises(ConfigError):
        redis_kwargs(url)


@pytest.mark.parametrize(
    "url",
    ["", "box", "http://box", "redis://box/x", "redis://box:port", "redis://a;redis://b", "sentinel://a", "unix://",
     "redis+socket://relative", "rediss://box?ssl_cert_reqs=maybe"],
)  # fmt: skip
def test_a_wrong_url_is_a_clear_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert "redis://" in caught.value.fix


@pytest.mark.parametrize("url", ["redis://me:secret@box/x", "redis://me:secret@box:port", "x://:secret@box"])
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert "secret" not in str(caught.value)


def test_no_text_shows_a_password() -> None:
    url = "rediss://me:secret@box/1"
    assert "secret" not in repr(parse(url)) + str(parse(url)) + str(unavailable(url, OSError("refused")))


def kombu_parameters(url: str) -> dict[str, Any]:
    """What kombu's transport would connect with."""
    settings = for_kombu(url)
    connection = Connection(settings.url, transport_options=settings.transport_options, ssl=settings.use_ssl or False)
    channel = object.__new__(Channel)
    channel.connection = type("T", (), {"client": connection, "default_port": 6379})()  # type: ignore[assignment]
    parameters: dict[str, Any] = channel._connparams()  # type: ignore[attr-defined]
    return parameters


def test_kombu_connects_to_the_same_place() -> None:
    shown = kombu_parameters("redis+socket:///run/a.sock?virtual_host=2")
    assert (shown["path"], shown["db"]) == ("/run/a.sock", 2)
    shown = kombu_parameters("redis://me:se%40cret@box:7000/3")
    assert (shown["host"], shown["port"], shown["db"]) == ("box", 7000, 3)
    assert (shown["username"], shown["password"]) == ("me", "se@cret")
    shown = kombu_parameters("rediss://box/1?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none")
    assert (shown["ssl_ca_certs"], shown["ssl_cert_reqs"]) == ("/ca.pem", ssl.CERT_NONE)
    assert kombu_parameters("rediss://box")["ssl_cert_reqs"] == ssl.CERT_REQUIRED


def test_sentinel_for_kombu() -> None:
    settings = for_kombu("sentinel://a:1;sentinel://b:2/0?master_name=main")
    assert settings.url == "sentinel://a:1/0;sentinel://b:2/0"
    assert settings.transport_options == {"master_name": "main"}


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41", "a%2Fb", "a b", "ü", "a;b,c", "a@b:c", "~", "+"])
def test_a_socket_of_any_name_is_the_same_for_everybody(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name / "broker.sock")
    url = socket_url(path)
    assert parse(url).path == redis_kwargs(url)["unix_socket_path"] == path
    assert kombu_parameters(url)["path"] == path
    app = Celery(broker=for_kombu(url).url, backend=bulk_url(for_kombu(url).url), set_as_current=False)
    assert app.backend.connparams["path"] == path
    depths.install("penstock")
    from flower.utils.broker import Broker

    assert Broker(for_kombu(url).url, broker_options={}).redis.connection_pool.connection_kwargs["path"] == path


@pytest.mark.parametrize("password", ["p w", "a@b", "a/b", "a?b#c", "%41", "a:b", "ü;&="])
def test_a_password_of_any_characters_is_the_same_for_everybody(password: str) -> None:
    url = f"redis://me:{quote(password, safe='')}@box:7000/3"
    assert redis_kwargs(url)["password"] == kombu_parameters(url)["password"] == password
    app = Celery(broker=for_kombu(url).url, backend=bulk_url(for_kombu(url).url), set_as_current=False)
    assert (app.backend.connparams["password"], app.backend.connparams["username"]) == (password, "me")
