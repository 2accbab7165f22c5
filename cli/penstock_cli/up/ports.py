"""The dashboard's port."""

from __future__ import annotations

import errno
import importlib.util
import socket

from penstock.errors import ConfigError


def dashboard_installed() -> bool:
    """Whether Flower can be imported."""
    return importlib.util.find_spec("flower") is not None


def free_port(host: str, wanted: int, *, exact: bool) -> int:
    """``wanted`` if nobody listens there, else (unless it must be ``exact``) one that the system picks.

    Somebody may take it before it is used; the dashboard then fails to start and its log says so. Raises
    ``ConfigError``.
    """
    for port in dict.fromkeys((wanted, 0)):
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(
                    f"the dashboard cannot listen on {host}:{port}: {error.strerror}",
                    fix="set dashboard.host to an address of this machine, and a port above 1023",
                ) from error
            if exact:
                break
    raise ConfigError(
        f"port {wanted} is taken on {host}", fix="stop what listens there, or choose another: --port 5556"
    )


def _bound(host: str, port: int) -> int:
    family, kind, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        # As the server will do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])


def in_url(host: str) -> str:
    """How a browser reaches a server bound to ``host``."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
