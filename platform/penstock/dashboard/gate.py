"""Which requests the dashboard answers, and what it tells browsers about itself: PURE.

A page that somebody visits can make their browser ask this dashboard. Three things keep it from learning or changing
anything: only names that belong to this dashboard are answered (a name of the page's own may resolve to this machine:
DNS rebinding), nothing is served to another site's page but a visit, and no page may frame it or be run inside it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from penstock.dashboard.guard import is_loopback

#: Methods that change nothing.
SAFE = ("GET", "HEAD", "OPTIONS")


class Refusal(NamedTuple):
    """An HTTP status and what the answer says."""

    status: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Gate:
    """``listens`` is the address that the dashboard is bound to, ``allowed`` are further names of it (``example.com``,
    ``example.com:8443``, ``*.example.com``; ``*`` for any), ``login`` whether it asks for one."""

    listens: str
    allowed: Collection[str] = ()
    login: bool = False

    def refuses(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request is not answered, if it is not. The names in ``headers`` are Tornado's: in any case."""
        host = headers.get("Host", "")
        if not self.answers_to(host):
            name = split(host)[0] or host
            return Refusal(
                421,
                "Misdirected Request",
                f"this dashboard does not answer to the host {host!r:.300}\n"
                f"  fix: if that is its name, set PENSTOCK_DASHBOARD__ALLOWED_HOSTS={name:.300}\n",
            )
        origin = headers.get("Origin")
        if origin is not None and not self._own(origin, host):
            return Refusal(403, "Forbidden", f"a page of {origin!r:.300} may not use this dashboard\n")
        if self._foreign(method, headers):
            return Refusal(403, "Forbidden", "a page of another site may not use this dashboard\n")
        return None

    def answers_to(self, host: str) -> bool:
        """Whether a ``Host`` header names this dashboard."""
        name, port = split(host)
        if not name:
            return False
        if is_loopback(name) or name.endswith(".localhost") or name == split(self.listens)[0]:
            return True
        if self.login and _is_address(name):
            # No name that could be made to resolve to it; and what it shows needs the login.
            return True
        return self._configured(name, port)

    def _configured(self, name: str, port: str) -> bool:
        for pattern in self.allowed:
            if pattern == "*":
                return True
            wanted, wanted_port = split(pattern)
            if wanted_port and wanted_port != port:
                continue
            if name == wanted or (wanted.startswith("*.") and name.endswith(wanted[1:])):
                return True
        return False

    def _own(self, origin: str, host: str) -> bool:
        """Whether a page of this dashboard asks. A proxy may have written another ``Host`` than the page has."""
        scheme, _, asking = origin.partition("://")
        if scheme not in ("http", "https"):
            return False  # "null": a file, a sandboxed frame
        if split(asking) == split(host):
            return True
        named = [pattern for pattern in self.allowed if pattern != "*"]
        return Gate(self.listens, named)._configured(*split(asking))

    def _foreign(self, method: str, headers: Mapping[str, str]) -> bool:
        """What browsers say of a request that another site's page made, a visit (a link, a bookmark) apart."""
        if headers.get("Sec-Fetch-Site", "same-origin") in ("same-origin", "none"):
            return False
        visit = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
        return not (visit and method in SAFE and "Upgrade" not in headers)


def split(host: str) -> tuple[str, str]:
    """Name and port of ``name:port``, both in lower case; the port may be empty, and an IPv6 address has brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        name, _, rest = host.partition("]")
        return name + "]", rest.removeprefix(":")
    if host.count(":") > 1:
        return f"[{host}]", ""  # as settings write an IPv6 address
    name, _, port = host.partition(":")
    return name.removesuffix("."), port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def answer_headers(scripts: Collection[str]) -> dict[str, str]:
    """What every answer tells the browser. ``scripts`` are digests (``sha256-…``) of the pages' own inline scripts."""
    allowed = " ".join(["'self'", *(f"'{digest}'" for digest in scripts)])
    return {
        # Styles: the pages' tables set widths in attributes. Pictures: the style sheets hold some as `data:`.
        "Content-Security-Policy": (
            f"default-src 'none'; script-src {allowed}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
            "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


#: Tasks and their arguments are for nobody's cache; only what is under ``/static/`` is.
NOT_KEPT = "no-store"
