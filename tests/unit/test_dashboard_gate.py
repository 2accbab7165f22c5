"""Whom the dashboard answers: names, origins, and what browsers say of a request."""

from __future__ import annotations

import pytest
from tornado.httputil import HTTPHeaders

from penstock.dashboard.gate import Gate, answer_headers, split
from penstock.settings import Settings

LOCAL = Gate("127.0.0.1")
NAMED = Gate("127.0.0.1", ("flower.example.com", "*.inner.test", "tls.example.com:8443"))
OPEN = Gate("0.0.0.0", login=True)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:5555",
        "127.0.0.1:5555",
        "127.8.8.8",
        "[::1]:5555",
        "[::1]",
        "localhost.",
        "a.localhost:1",
    ],
)
def test_this_machine_is_answered(host: str) -> None:
    for gate in (LOCAL, NAMED, OPEN):
        assert gate.answers_to(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost", "10.0.0.1", "0.0.0.0",
        "[::2]:5555", "[::ffff:10.0.0.1]", "2130706434", "localhost@evil.example", "evil.example:5555", ":5555", "[",
        "localhost,evil.example", "flower.example.com.evil.example", "xflower.example.com", "inner.test",
        "tls.example.com", "tls.example.com:443",
    ],
)  # fmt: skip
def test_another_name_is_not(host: str) -> None:
    assert not NAMED.answers_to(host)
    refusal = LOCAL.refuses("GET", HTTPHeaders({"Host": host}))
    assert refusal is not None and refusal.status == 421 and "ALLOWED_HOSTS" in refusal.text


@pytest.mark.parametrize(
    "host", ["flower.example.com", "Flower.Example.Com:80", "a.inner.test", "a.b.inner.test:1", "tls.example.com:8443"]
)
def test_a_configured_name_is_answered(host: str) -> None:
    assert NAMED.answers_to(host) and not LOCAL.answers_to(host)


def test_behind_a_login_an_address_is_enough_and_a_name_is_not() -> None:
    assert OPEN.answers_to("10.1.2.3:5555") and OPEN.answers_to("[fd00::1]:5555")
    assert not OPEN.answers_to("evil.example")
    assert Gate("10.0.0.5", login=True).answers_to("10.0.0.5:5555") and Gate("box", login=True).answers_to("box:5555")
    assert Gate("fd00::7", login=True).answers_to("[fd00::7]:5555")
    assert Gate("0.0.0.0", ("*",), login=True).answers_to("any.example")


def refused(method: str, gate: Gate = LOCAL, **headers: str) -> bool:
    given = HTTPHeaders({"Host": "localhost:5555"} | {name.replace("_", "-"): value for name, value in headers.items()})
    return gate.refuses(method, given) is not None


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PUT", "HEAD"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:3000",
        "null",
        "",
        "http://localhost",
        "file://",
        "localhost:5555",
        "http://[",
    ],
)
def test_a_page_of_another_origin_gets_nothing(method: str, origin: str) -> None:
    assert refused(method, Origin=origin)
    assert refused(method, Gate("127.0.0.1", ("*",)), Origin=origin)


def test_its_own_pages_do() -> None:
    for method in ("GET", "POST"):
        assert not refused(method)  # no browser
        assert not refused(method, Origin="http://localhost:5555", Sec_Fetch_Site="same-origin")
        # A proxy that ends TLS keeps the host, or writes its own.
        assert not refused(method, Host="flower.example.com", Origin="https://flower.example.com", gate=NAMED)
        assert not refused(method, Origin="https://flower.example.com", gate=NAMED)
        assert refused(method, Origin="https://other.example.com", gate=NAMED)
    assert refused("POST", Sec_Fetch_Site="same-origin", Origin="http://evil.example")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "unheard-of"])
def test_another_site_may_link_here_and_no_more(site: str) -> None:
    visit = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert not refused("GET", Sec_Fetch_Site=site, **visit)
    assert not refused("GET", Sec_Fetch_Site="none", **visit)
    assert refused("POST", Sec_Fetch_Site=site, **visit)
    assert refused("GET", Sec_Fetch_Site=site, **visit, Upgrade="websocket")
    for mode, dest in (("navigate", "iframe"), ("no-cors", "script"), ("cors", "empty"), ("websocket", "websocket")):
        assert refused("GET", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode, Sec_Fetch_Dest=dest)


def test_a_host_is_split_as_browsers_write_it() -> None:
    assert split("A.b:80") == ("a.b", "80") and split("[::1]:80") == ("[::1]", "80") and split("::1") == ("[::1]", "")
    assert split("[::1]") == ("[::1]", "") and split("a.b.") == ("a.b", "") and split("") == ("", "")


def test_no_page_may_frame_it_or_run_in_it() -> None:
    policy = answer_headers(["sha256-abc="])["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (
        rules["script-src"] == "'self' 'sha256-abc='" and rules["default-src"] == rules["frame-ancestors"] == "'none'"
    )


def test_names_are_written_with_commas_or_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("a.b, c.d:1", '["a.b", "c.d:1"]', "a.b c.d:1"):
        monkeypatch.setenv("PENSTOCK_DASHBOARD__ALLOWED_HOSTS", text)
        assert Settings.load().dashboard.allowed_hosts == ["a.b", "c.d:1"]
