"""Who may see the dashboard: everybody on this machine, elsewhere only who has a password."""

from __future__ import annotations

import ipaddress

from penstock.errors import ConfigError
from penstock.settings import Settings

_EXAMPLE = "PENSTOCK_DASHBOARD__BASIC_AUTH=user:password"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. An empty one means every address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name may resolve to anything


def check(settings: Settings) -> None:
    """Raise ``ConfigError`` for a dashboard that strangers could use: it can stop workers and read inputs."""
    options = settings.dashboard
    if options.basic_auth is None:
        if not is_loopback(options.host):
            raise ConfigError(
                f"the dashboard would be open to everybody who reaches {options.host or 'this machine'}",
                fix=f"set a login, {_EXAMPLE}, or listen on 127.0.0.1",
            )
        return
    user, colon, password = options.basic_auth.get_secret_value().partition(":")
    if not (user and colon and password):
        raise ConfigError("dashboard.basic_auth is not user:password", fix=f"write it as {_EXAMPLE}")
