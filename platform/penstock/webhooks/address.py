"""Which addresses a webhook may go to: pure rules, applied twice.

``check_url`` looks at the text of the URL when a job is submitted: quick, without the network, so that an obvious
mistake is told to the person who made it. ``refusal`` looks at the IP address that a name resolved to, inside the
connect (see ``guard``): that one is the protection, since what a name resolves to can change in between.

Both are allow-lists. ``ipaddress.is_global`` is not enough: it passes NAT64 (``64:ff9b::7f00:1`` is 127.0.0.1 behind
such a gateway), 6to4 and multicast.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from penstock.errors import InvalidInput, WebhookRefused

#: The longest URL that is accepted.
MAX_URL_LENGTH = 2048

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_V4_REFUSED = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "100.64.0.0/10",  # carrier-grade NAT
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
#: What local mode may reach besides the internet: loopback, private networks, shared address space.
_V4_PRIVATE = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)
_V6_UNICAST = ipaddress.IPv6Network("2000::/3")
_V6_REFUSED = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise, and long deprecated
        "3fff::/20",  # documentation
    )
)
_V6_PRIVATE = (ipaddress.IPv6Network("::1/128"), ipaddress.IPv6Network("fc00::/7"))
#: Networks without IPv4 reach every public IPv4 receiver through this prefix, so it is looked into, not refused.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_FIX = "use a public https address; in local mode set PENSTOCK_WEBHOOK__ALLOW_PRIVATE=true"

#: A host that ends in a number is an IPv4 address to resolvers, however it is written: 2130706433, 0x7f.1, 0177.1.
_NUMERIC_HOST = re.compile(r"(^|\.)(0[xX][0-9a-fA-F]*|[0-9]+)\.?$")


def refusal(address: IPAddress, *, allow_private: bool = False) -> str | None:
    """Why a webhook may not be sent to ``address``; ``None`` if it may.

    ``allow_private`` admits loopback and private networks. Link-local addresses (where clouds serve credentials),
    multicast and the unspecified address are refused even then.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return refusal(address.ipv4_mapped, allow_private=allow_private)
        if address in _NAT64:
            return refusal(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF), allow_private=allow_private)
        if allow_private and any(address in network for network in _V6_PRIVATE):
            return None
        allowed = address in _V6_UNICAST and not any(address in network for network in _V6_REFUSED)
    else:
        if allow_private and any(address in network for network in _V4_PRIVATE):
            return None
        allowed = address.is_global and not any(address in network for network in _V4_REFUSED)
    return None if allowed else f"{address} is not a public address"


def check_url(url: str, allow_private: bool = False) -> None:
    """Refuse a callback URL that could never be delivered to.

    Raises ``InvalidInput`` when it is not a URL, ``WebhookRefused`` when its address is not allowed. Does not resolve
    names: a name that leads to a private network is refused when it is connected to.
    """
    if len(url) > MAX_URL_LENGTH:
        raise InvalidInput(f"the webhook's URL is longer than {MAX_URL_LENGTH} characters", fix="use a shorter one")
    if not url.isprintable() or " " in url or "\\" in url:
        raise InvalidInput("the webhook's URL contains blanks or control characters", fix="percent-encode them")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port is parsed on access
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise InvalidInput("the webhook is not an http(s) URL", fix="for example webhook='https://example.com/done'")
    if "@" in parts.netloc:
        # Whatever is in the URL is stored with the job and shown to everybody who can see it.
        raise InvalidInput("the webhook's URL contains a user name", fix="verify the signature instead of a password")
    if parts.scheme != "https" and not allow_private:
        raise WebhookRefused("a webhook must use https", fix=_FIX)
    reason = _host_refusal(host, allow_private)
    if reason is not None:
        raise WebhookRefused(f"webhook to {host}: {reason}", fix=_FIX)


def _host_refusal(host: str, allow_private: bool) -> str | None:
    try:
        return refusal(ipaddress.ip_address(host.split("%", 1)[0]), allow_private=allow_private)
    except ValueError:
        pass
    if _NUMERIC_HOST.search(host):
        return "write an IPv4 address as four decimal numbers"
    name = host.rstrip(".")
    if not allow_private and (name == "localhost" or name.endswith(".localhost")):
        return "this machine is not a public address"
    return None
