"""Broker URLs: one spelling for kombu, redis-py, Flower and us.

Accepted: ``redis://[user:password@]host[:port][/db]``, ``rediss://`` (TLS; ``ssl_ca_certs``, ``ssl_certfile``,
``ssl_keyfile``, ``ssl_cert_reqs``, ``ssl_check_hostname`` in the query), ``sentinel://h1:p1;sentinel://h2:p2/db``
with ``?master_name=…``, and ``redis+socket:///path[?virtual_host=db]`` (or ``unix:///path[?db=0]``) for a unix socket.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from penstock import address
from penstock.errors import BrokerUnavailable, ConfigError
from penstock.transport.refusals import RIGHTS, Refused, passing, refuse

#: How long a connection attempt, and the wait for an answer, may take by default, seconds.
TIMEOUT_S = 1.0

SCHEMES = ("redis", "rediss", "sentinel", "redis+socket", "unix")

_CERT_REQS = {
    "none": "none",
    "optional": "optional",
    "required": "required",
    "cert_none": "none",
    "cert_optional": "optional",
    "cert_required": "required",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerURL:
    """A parsed broker URL. Its ``repr`` does not show the password."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: dict[str, Any] = field(default_factory=dict)
    master_name: str | None = None

    def __str__(self) -> str:
        """The address without any secret."""
        if self.path is not None:
            return f"redis+socket://{self.path}"
        return ";".join(f"{self.scheme}://{host}:{port}/{self.db}" for host, port in self.hosts)


def parse(url: str) -> BrokerURL:
    """Parse a broker URL; raises ``ConfigError`` that never quotes a password."""
    try:
        return _parse(url)
    except ValueError as error:
        raise ConfigError(
            f"the broker URL cannot be read: {error}",
            fix="use redis://host:6379/0, rediss://…, sentinel://…?master_name=…, or redis+socket:///path",
        ) from None


def _parse(url: str) -> BrokerURL:
    scheme = url.partition("://")[0].lower()
    if "://" not in url or scheme not in SCHEMES:
        raise ValueError(f"its scheme is not one of {', '.join(SCHEMES)}")
    # Only sentinels are several; elsewhere a semicolon is a character like another.
    texts = [part for part in url.split(";") if part] if scheme == "sentinel" else [url]
    parts = [address.parse(part if "://" in part else f"sentinel://{part}") for part in texts]
    first = parts[0]
    query = {name: value for part in parts for name, value in part.query.items()}
    if scheme in ("redis+socket", "unix"):
        if first.hosts or len(first.path) < 2:
            raise ValueError("a socket's path must be absolute")
        return BrokerURL(
            scheme="redis+socket",
            path=first.path,
            db=_db(query.get("virtual_host") or query.get("db") or "0"),
            username=first.username,
            password=first.password,
        )
    default_port = 26379 if scheme == "sentinel" else 6379
    hosts = tuple(
        (name or "localhost", port or default_port) for part in parts for name, port in part.hosts or (("", None),)
    )
    if scheme != "sentinel" and len(hosts) > 1:
        raise ValueError("several hosts need sentinel://")
    if scheme == "sentinel" and not query.get("master_name"):
        raise ValueError("sentinel:// needs ?master_name=…")
    return BrokerURL(
        scheme=scheme,
        hosts=hosts,
        db=_db(_last_path(parts)),
        tls=_tls(query) if scheme == "rediss" else {},
        master_name=query.get("master_name"),
        username=first.username,
        password=first.password,
    )


def _last_path(parts: list[address.Address]) -> str:
    return next((part.path.strip("/") for part in reversed(parts) if part.path.strip("/")), "0")


def _db(text: str) -> int:
    number = text.strip("/") or "0"
    if not number.isdecimal():
        raise ValueError("the database behind the port must be a number")
    return int(number)


def _tls(query: dict[str, str]) -> dict[str, Any]:
    tls: dict[str, Any] = {key: value for key, value in query.items() if key.startswith("ssl_")}
    reqs = tls.get("ssl_cert_reqs", "required").lower()
    if reqs not in _CERT_REQS:
        raise ValueError("ssl_cert_reqs must be none, optional or required")
    tls["ssl_cert_reqs"] = _CERT_REQS[reqs]
    if "ssl_check_hostname" in tls:
        tls["ssl_check_hostname"] = tls["ssl_check_hostname"].lower() not in ("false", "0", "no")
    return tls


def redis_kwargs(url: str | BrokerURL) -> dict[str, Any]:
    """Keyword arguments of ``redis.Redis`` for a URL (not for ``sentinel://``: use ``connect``)."""
    broker = parse(url) if isinstance(url, str) else url
    kwargs: dict[str, Any] = {"db": broker.db, "username": broker.username, "password": broker.password}
    if broker.path is not None:
        return kwargs | {"unix_socket_path": broker.path}
    if broker.scheme == "sentinel":
        raise ConfigError("a sentinel URL names no server", fix="use penstock.transport.url.connect(url)")
    host, port = broker.hosts[0]
    kwargs |= {"host": host, "port": port}
    if broker.scheme == "rediss":
        kwargs |= {"ssl": True, **broker.tls}
    return kwargs


def connect(
    url: str | BrokerURL, *, timeout_s: float | None = TIMEOUT_S, replies: bool = False, **options: Any
) -> redis.Redis:
    """A redis-py client for a URL. It connects on first use; each wait is bounded by ``timeout_s``.

    What the server refuses for the time being is a lost connection, raised as ``Refused``; with ``replies``, it is a
    reply like others, raised as ``RefusedReply``.

    A command whose pooled connection turns out to be dead is sent once more on a fresh one, so a command may be
    executed twice. Everything that penstock sends is harmless when it is.
    """
    broker = parse(url) if isinstance(url, str) else url
    common: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        "protocol": 2,
        **options,
    }
    if broker.scheme == "sentinel":
        credentials = {"username": broker.username, "password": broker.password}
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            list(broker.hosts),
            sentinel_kwargs={"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s},
            db=broker.db,
            **credentials,
            **common,
        )
        client: redis.Redis = sentinel.master_for(broker.master_name, redis.Redis)
        return refuse(client, replies=replies)
    kwargs = redis_kwargs(broker) | common
    if broker.path is not None:
        kwargs.pop("socket_connect_timeout")
    client = redis.Redis(**kwargs)
    return refuse(client, replies=replies)


@dataclass(frozen=True, slots=True)
class KombuURL:
    """What a Celery app needs: ``broker_url``, ``broker_transport_options`` and ``broker_use_ssl``."""

    url: str
    transport_options: dict[str, Any]
    use_ssl: dict[str, Any] | None


def for_kombu(url: str) -> KombuURL:
    """The same broker as kombu, Celery and Flower want it written."""
    broker = parse(url)
    user = _user(broker)
    if broker.path is not None:
        place = address.quoted(broker.path)
        return KombuURL(f"redis+socket://{user}{place}?{urlencode({'virtual_host': broker.db})}", {}, None)
    urls = [f"{broker.scheme}://{user}{_host(host)}:{port}/{broker.db}" for host, port in broker.hosts]
    if broker.scheme == "sentinel":
        return KombuURL(";".join(urls), {"master_name": broker.master_name}, None)
    if broker.scheme == "rediss":
        modes = {
            "none": ssl.CERT_NONE,
            "optional": ssl.CERT_OPTIONAL,
            "required": ssl.CERT_REQUIRED,
        }
        use_ssl = {**broker.tls, "ssl_cert_reqs": modes[broker.tls["ssl_cert_reqs"]]}
        return KombuURL(urls[0], {}, use_ssl)
    return KombuURL(urls[0], {}, None)


def _user(broker: BrokerURL) -> str:
    if broker.password is None:
        return f"{quote(broker.username, safe='')}@" if broker.username else ""
    return f"{quote(broker.username or '', safe='')}:{quote(broker.password, safe='')}@"


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def unavailable(url: str | BrokerURL, error: BaseException) -> BrokerUnavailable:
    """The error to raise when the broker at ``url`` does not answer."""
    broker = parse(url) if isinstance(url, str) else url
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, MasterNotFoundError):
        reason = reason.partition(" : <")[0]  # the whole state of each sentinel's client follows
    if isinstance(error, redis.ResponseError | Refused):
        if passing(reason) in RIGHTS:
            fix = "check the user and the password in PENSTOCK_BROKER_URL, and the user's rights"
        else:
            fix = "what passes (a failover, a full disk) is waited for; `penstock doctor` shows more"
        return BrokerUnavailable(f"the broker at {broker} refuses ({reason})", fix=fix)
    fix = (
        "`penstock up` starts the embedded broker"
        if broker.path is not None
        else "start Redis there, or set PENSTOCK_BROKER_URL; `penstock doctor` checks it"
    )
    return BrokerUnavailable(f"the broker at {broker} does not answer ({reason})", fix=fix)
