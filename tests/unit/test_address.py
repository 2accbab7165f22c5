"""URLs of servers: read as they were meant, or refused, and never quoted."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import address
from penstock.errors import ConfigError
from penstock.settings import Settings
from penstock.store import place
from penstock.transport import url as broker

AWKWARD = "p w:/?#@%25é"


@pytest.mark.parametrize(
    "password", ["a b", "a@b", "a:b", "a/b", "a?b", "a#b", "a%b", "a&b=c", "a;b,c", "@", "a/b?c@d#e", "é"]
)
def test_a_password_may_stand_as_it_is(password: str) -> None:
    parts = address.parse(f"postgresql://me:{password}@host:5432/name?sslmode=require")
    assert (parts.username, parts.password, parts.hosts) == ("me", password, (("host", 5432),))
    assert (parts.path, parts.query) == ("/name", {"sslmode": "require"})
    assert broker.parse(f"redis://:{password}@host:6379/2").password == password


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and text.isprintable()))
def test_any_password_and_name_can_be_quoted(text: str) -> None:
    quoted = quote(text, safe="")
    found = place.read(f"postgresql://{quoted}:{quoted}@[::1]:5432/{quoted}")
    assert isinstance(found, place.PostgresDatabase)
    assert found.parameters == {"user": text, "password": text, "dbname": text, "host": "::1", "port": "5432"}
    parsed = broker.parse(f"redis://{quoted}:{quoted}@host")
    assert (parsed.username, parsed.password) == (text, text)
    again = broker.parse(broker.for_kombu(f"redis://{quoted}:{quoted}@host").url)
    assert (again.username, again.password, again.hosts) == (text, text, parsed.hosts)


@pytest.mark.parametrize(
    ("url", "user", "password", "hosts", "path", "query"),
    [
        ("postgresql://", None, None, (), "", {}),
        ("postgresql:///name", None, None, (), "/name", {}),
        ("postgresql://me@/name?host=/run/pg", "me", None, (), "/name", {"host": "/run/pg"}),
        ("postgresql://me@%2Frun%2Fpg/name", "me", None, (("/run/pg", None),), "/name", {}),
        ("postgresql://a:1,b:2,c/n", None, None, (("a", 1), ("b", 2), ("c", None)), "/n", {}),
        ("postgresql://host/my@name", None, None, (("host", None),), "/my@name", {}),
        ("postgresql://u:p@h/n?application_name=a@b", "u", "p", (("h", None),), "/n", {"application_name": "a@b"}),
        ("postgresql://h/a b#c", None, None, (("h", None),), "/a b#c", {}),
        ("postgresql://h/n?options=-c%20a%3Db+c", None, None, (("h", None),), "/n", {"options": "-c a=b+c"}),
        ("redis://:@h", None, None, (("h", None),), "", {}),
    ],
)  # fmt: skip
def test_every_part(
    url: str, user: str | None, password: str | None, hosts: object, path: str, query: dict[str, str]
) -> None:
    parts = address.parse(url)
    assert (parts.username, parts.password, parts.hosts) == (user, password, hosts)
    assert (parts.path, parts.query) == (path, query)


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "postgresql:/u:hunter2@h/n",
        "postgresql://u:1/hunter2@h/n",  # the host u at port 1, or a password
        "postgresql://u:hunter2@h/a@b",
        "postgresql://u:p@hunter2@/n?x@y/z@w",
        "postgresql://u:hunter2@h:70000/n",
        "postgresql://u:hunter2@h:port/n",
        "postgresql://u:p@h/n?hunter2=1",
        "postgresql://u:hunter2%00@h/n",
        "hunter2://u:p@h/n",
        "sqlite://u:hunter2@h/n",
        "sqlite:////a?hunter2",
        "mysql://u:hunter2@h/n",
        "redis://u:hunter2@h:x/0",
        "redis://u:p@h/hunter2",
        "redis://:1/hunter2@h:6379/0",
        "rediss://h?ssl_cert_reqs=hunter2",
    ],
)
def test_what_cannot_be_read_is_not_shown(url: str) -> None:
    for read in (place.read, broker.parse):
        with pytest.raises(ConfigError) as caught:
            read(url)
        shown = f"{caught.value}{caught.value!r}{caught.value.__context__!s}"
        assert "hunter2" not in shown.replace("hunter2:// is", "")
        assert caught.value.fix


@pytest.mark.parametrize(
    "name", ["a?b", "a#b", "a%41", "a%2Fb", "a b", "ü✓", "a;b,c", "a&b=c", "a@b:c", "[a]", "a%", "~"]
)
def test_a_home_of_any_name_is_where_it_says(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    settings = Settings(home=home)
    assert place.read(settings.database) == place.SQLiteFile(home / "penstock.db")
    assert broker.parse(settings.broker).path == str(settings.broker_socket)
    assert broker.connect(settings.broker).connection_pool.connection_kwargs["path"] == str(settings.broker_socket)
    again = broker.parse(broker.for_kombu(settings.broker).url)
    assert again.path == str(settings.broker_socket)


def test_no_repr_shows_a_password() -> None:
    url = "postgresql://me:hunter2@h/n"
    settings = Settings(database_url=url, broker_url="redis://:hunter2@h", result_url="redis://:hunter2@h")
    assert "hunter2" not in repr((settings, address.parse(url), place.read(url), broker.parse("redis://:hunter2@h")))
