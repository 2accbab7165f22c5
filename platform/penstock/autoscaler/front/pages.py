"""``/desired``: how many workers each pool should have, as JSON over HTTP, for KEDA's ``metrics-api`` scaler."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from penstock.autoscaler.front.board import STATES, Board
from penstock.policy.scaling import kind_of
from penstock.telemetry.pages import Answer, Page

PATH = "/desired"
#: After so long whoever was told that nothing is known may ask again, seconds.
RETRY_AFTER_S = 5


def pages(board: Board, named: Collection[str]) -> Mapping[str, Page]:
    """The page of all pools and, below it, one of each. ``named`` are the pools of the settings."""

    def desired(below: str) -> Answer:
        known = sorted({*named, *(board.pools or ())})
        if not below:
            return Answer({"pools": {pool: _document(board, pool) for pool in known}})
        if below in known:
            document = {"pool": below, **_document(board, below)}
            return Answer(document) if "desired" in document else _unknown(document)
        if board.pools is None:
            return _unknown({"pool": below[:100], "unknown": "this autoscaler has not seen any pool yet"})
        return Answer({"error": f"there is no pool {below[:100]!r}", "pools": known}, HTTPStatus.NOT_FOUND)

    return {PATH: desired}


def _unknown(document: dict[str, Any]) -> Answer:
    return Answer(document, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": str(RETRY_AFTER_S)})


def _document(board: Board, pool: str) -> dict[str, Any]:
    answer, standing = board.answer(pool), board.standing(pool)
    document: dict[str, Any] = {"unknown": answer.why} if answer.workers is None else {"desired": answer.workers}
    if standing is None:
        return document
    if standing.fleet is not None:
        document |= {state: getattr(standing.fleet, state) for state in STATES}
    if math.isfinite(standing.at):
        document["decided_s_ago"] = round(board.age_s(standing.at), 1)
    if standing.load_at is not None:
        document["load_seen_s_ago"] = round(board.age_s(standing.load_at), 1)
    if standing.code:
        document |= {"code": standing.code, "reason": standing.reason}
    # Without what was said: whoever asks here has shown no password, and a model's error may hold one.
    if standing.fleet is not None and (kind := kind_of(standing.fleet.stuck)):
        document["stuck"] = kind
    return document
