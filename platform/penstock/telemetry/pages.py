"""Pages beside ``/metrics`` on the same port: small documents that are asked for, such as what an autoscaler wants.

A page is a function of what follows its path. Whoever has one gives it to the ``Endpoint``; this module routes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog

log = structlog.get_logger(__name__)

#: Any WSGI application: ``(environ, start_response) -> body``.
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page answers: a document that becomes JSON, or text as it is."""

    document: Any
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


#: Gets what follows the page's path, without slashes at its ends; empty for the page itself.
Page = Callable[[str], Answer]


def with_pages(app: App, pages: Mapping[str, Page]) -> App:
    """``app`` with pages before it, each at a path such as ``/desired`` and below it. All else is the app's."""

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # WSGI gives the path's bytes as latin-1.
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
        for prefix, page in pages.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                return _serve(environ, start_response, page, path[len(prefix) :].strip("/"))
        return app(environ, start_response)

    return serve


def _serve(environ: dict[str, Any], start_response: Callable[..., Any], page: Page, below: str) -> Iterable[bytes]:
    method = environ.get("REQUEST_METHOD", "GET")
    if method not in ("GET", "HEAD"):
        answer = Answer({"error": "this can only be read"}, HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
    else:
        try:
            answer = page(below)
        except Exception:  # a defect: whoever asks must not take silence for an answer
            log.exception("a page failed", action="metrics.page_failed", below=below[:100])
            answer = Answer({"error": "this page failed; the log says why"}, HTTPStatus.INTERNAL_SERVER_ERROR)
    text = isinstance(answer.document, str)
    body = (answer.document if text else json.dumps(answer.document, separators=(", ", ": "))).encode() + b"\n"
    kind = "text/plain; charset=utf-8" if text else "application/json"
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store", **answer.headers}
    start_response(f"{answer.status.value} {answer.status.phrase}", list(headers.items()))
    return [] if method == "HEAD" else [body]
