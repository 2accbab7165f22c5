"""URLs as text for people: logs, errors, ``penstock doctor``, the state file. PURE.

Only the parts of a well-formed URL that are no secret are shown; the rest becomes ``…``. A password that somebody set
in the place of a URL, or with an unescaped ``/`` or ``@`` in it, is nobody's business either.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

#: Stands for what is not shown.
HIDDEN = "…"
NO_URL = "(no URL, not shown)"

#: Schemes by what their parts mean.
_REDIS = frozenset({"redis", "rediss", "sentinel"})
_FILES = frozenset({"sqlite", "redis+socket", "unix", "file"})
_SQL = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
#: What Celery writes before the URL of a database.
_CELERYS = ("db+", "database+")
_OTHERS = frozenset({"http", "https", "s3", "gs"})
#: Parameters that hold no secret.
_OPEN = frozenset(
    {
        *("db", "dbname", "host", "master_name", "port", "user", "virtual_host"),
        *("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"),
        *("sslcert", "sslkey", "sslmode", "sslrootcert"),
        *("application_name", "connect_timeout", "target_session_attrs"),
    }
)
_PLACE = re.compile(r"([A-Za-z0-9._-]*|\[[0-9A-Fa-f:.%]+\])(:[0-9]*)?")


def safe_url(url: str) -> str:
    """The URL (of several hosts, perhaps) without what may be a secret."""
    for prefix in _CELERYS:
        if url.startswith(prefix) and (shown := _safe(url.removeprefix(prefix))) != NO_URL:
            return prefix + shown
    if not url.startswith("sentinel://"):
        return _safe(url)
    parts = [part if "://" in part else f"sentinel://{part}" for part in url.split(";") if part]
    return ";".join(map(_safe, parts))


def _safe(url: str) -> str:
    if not url.isprintable():  # a line break would be dropped
        return NO_URL
    try:
        parts = urlsplit(url)
    except ValueError:
        return NO_URL
    scheme = parts.scheme
    if scheme not in _REDIS | _FILES | _SQL | _OTHERS or not url.lower().startswith(f"{scheme}://"):
        return NO_URL
    shown = scheme + "://"
    netloc = parts.netloc.rpartition("@")[2]
    places = netloc.split(",") if scheme in _SQL else [netloc]
    hosts = all(_PLACE.fullmatch(place) for place in places)
    if not hosts or (scheme not in _FILES and "@" in parts.path + parts.query + parts.fragment):
        # The password was not escaped, and the parts are not what they seem.
        return shown + HIDDEN
    return f"{shown}{_who(parts)}{netloc}{_path(parts)}{_query(parts)}" + (f"#{HIDDEN}" if parts.fragment else "")


def _who(parts: SplitResult) -> str:
    user, password = parts.username, parts.password
    if user is None and password is None:
        return ""
    if password is None:  # where a Redis has no users, people write the password like one
        return f"{user if parts.scheme in _SQL else HIDDEN}@"
    return f"{user}:{HIDDEN}@"


def _path(parts: SplitResult) -> str:
    if parts.scheme in _FILES | _SQL or re.fullmatch(r"/?\d*/?", parts.path):
        return parts.path
    return "/" + HIDDEN


def _query(parts: SplitResult) -> str:
    if not parts.query:
        return ""
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    named = all(value and re.fullmatch(r"\w+", name) for name, value in pairs)
    shown = [f"{name}={value if name in _OPEN else HIDDEN}" for name, value in pairs]
    return "?" + ("&".join(shown) if named and shown else HIDDEN)
