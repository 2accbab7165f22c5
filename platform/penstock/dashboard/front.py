"""Puts the gate before Flower: before every handler, static files, metrics and Tornado's own error pages included.

It stands at the connection, not in the handlers: an answer passes by it whichever handler wrote it, and a handler that
is added later is behind it, too.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
from tornado import template
from tornado.web import RequestHandler

from penstock.dashboard.gate import NOT_KEPT, Gate, Refusal, answer_headers

log = structlog.get_logger(__name__)

_SCRIPT = re.compile(r"<script(?![^>]*\ssrc\s*=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


def guarded(base: type[Any], gate: Gate, templates: Path) -> type[Any]:
    """``base``, a Tornado application class, behind the gate. ``templates`` are its pages' sources."""
    headers = answer_headers(sorted(set(inline_scripts(templates))))

    class Guarded(base):  # type: ignore[misc]
        def start_request(self, server_conn: object, request_conn: Any) -> Any:
            return super().start_request(server_conn, _Connection(request_conn, headers))

        def find_handler(self, request: Any, **kwargs: Any) -> Any:
            request.connection.path = request.path
            refusal = gate.refuses(request.method, request.headers)
            if refusal is None:
                return super().find_handler(request, **kwargs)
            log.warning("request refused", action="dashboard.refused", status=refusal.status, why=refusal.text.strip())
            return self.get_handler_delegate(request, _Refused, {"refusal": refusal})

    return Guarded


class _Connection:
    """Tornado's connection, whose answers carry our headers besides their own."""

    def __init__(self, inner: Any, headers: Mapping[str, str]) -> None:
        self._inner = inner
        self._headers = headers
        self.path = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write_headers(self, start_line: Any, headers: Any, chunk: bytes | None = None) -> Any:
        for name, value in self._headers.items():
            headers[name] = value
        if "/static/" not in self.path:
            headers["Cache-Control"] = NOT_KEPT
        return self._inner.write_headers(start_line, headers, chunk)


class _Refused(RequestHandler):
    """Answers with the refusal, whatever was asked, before the body has come."""

    def initialize(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def check_xsrf_cookie(self) -> None:
        """It changes nothing."""

    def prepare(self) -> None:
        self.set_status(self._refusal.status, self._refusal.reason)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(self._refusal.text)


def inline_scripts(templates: Path) -> Iterator[str]:
    """The digests of the scripts that stand in the pages themselves, as a policy names them.

    A page's script may depend on an option, which is on or off; one that depends on more cannot be named, and browsers
    will not run it.
    """
    for page in sorted(templates.glob("*.html")):
        for script in _SCRIPT.findall(page.read_text(encoding="utf-8")):
            for autorefresh in (0, 1):
                try:
                    text = template.Template(script, name=page.name, autoescape=None).generate(autorefresh=autorefresh)
                except Exception as error:
                    log.warning("a script will not run", action="dashboard.script", page=page.name, error=str(error))
                    continue
                digest = hashlib.sha256(text).digest()
                yield f"sha256-{base64.b64encode(digest).decode()}"
