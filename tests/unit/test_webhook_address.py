"""Which callback addresses are allowed."""

from __future__ import annotations

import ipaddress

import pytest

from penstock.errors import InvalidInput, WebhookRefused
from penstock.webhooks.address import check_url, refusal

PUBLIC = ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]
PRIVATE = ["127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1"]
PRIVATE_IN_DISGUISE = ["::ffff:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::7f00:1", "64:ff9b::a00:1"]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",  # where clouds serve credentials
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::7f00:1",  # IPv4-compatible, deprecated
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:0101:0101::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "3fff::1",
    "64:ff9b:1::1",
    "100::1",
    "5f00::1",
    "4000::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_allowed(text: str) -> None:
    assert refusal(ipaddress.ip_address(text)) is None
    assert refusal(ipaddress.ip_address(text), allow_private=True) is None


@pytest.mark.parametrize("text", PRIVATE + PRIVATE_IN_DISGUISE)
def test_private_addresses_are_for_local_mode(text: str) -> None:
    assert refusal(ipaddress.ip_address(text)) is not None
    assert refusal(ipaddress.ip_address(text), allow_private=True) is None


@pytest.mark.parametrize("text", NEVER)
def test_some_addresses_are_refused_even_in_local_mode(text: str) -> None:
    assert refusal(ipaddress.ip_address(text)) is not None
    assert refusal(ipaddress.ip_address(text), allow_private=True) is not None


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:8443/hook?job=1",
        "https://sub.example.co.uk/a%20b",
        "https://xn--bcher-kva.example/",
        "https://1.1.1.1/hook",
        "https://[2606:4700:4700::1111]/hook",
        "https://api2.example.com/v1",
        "HTTPS://EXAMPLE.COM/",
    ],
)
def test_good_urls_pass(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "https://",
        "https:///path",
        "https://example.com:port/",
        "https://example.com:70000/",
        "https://[::1",
        "https://user:secret@example.com/",
        "https://user@example.com/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: other",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/" + "a" * 3000,
    ],
)
def test_what_is_no_url_is_invalid_input(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_url(url, allow_private=True)
    assert caught.value.fix
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost:8080/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://0/",
        "https://0.0.0.0/",
        "https://10.0.0.5/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://[ff02::1]/",
        "https://example.com.1/",
    ],
)
def test_forbidden_addresses_are_refused_with_a_fix(url: str) -> None:
    with pytest.raises(WebhookRefused) as caught:
        check_url(url)
    assert "https" in caught.value.fix


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/hook", "http://localhost:1/", "http://[::1]:80/", "http://host.internal/"]
)
def test_local_mode_allows_http_and_private_addresses(url: str) -> None:
    check_url(url, allow_private=True)


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://0.0.0.0:80/", "http://2130706433/"])
def test_local_mode_has_limits(url: str) -> None:
    with pytest.raises(WebhookRefused):
        check_url(url, allow_private=True)
