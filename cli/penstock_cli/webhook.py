"""``penstock webhook``: deliveries, and a receiver to try them with."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from penstock.clock import isoformat, now
from penstock_cli import preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.jobids import each_id
from penstock_cli.jobview import short
from penstock_cli.services import Signals

#: How often ``listen --count`` looks whether it is done, seconds.
LOOK_S = 0.1

STATES = ("pending", "delivered", "dead", "gone")


@group()
def webhook() -> None:
    """Result callbacks: deliveries, replay, a test receiver.

    A job submitted with --webhook URL is reported there, signed as Standard Webhooks says, when it has ended.
    """


@webhook.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@pass_app
def list_(app: App, state: str | None, limit: int) -> None:
    """List deliveries, newest first."""
    preflight.check(app, broker=False)
    found = {delivery.id: delivery for delivery in app.store.list_deliveries(state=state, limit=limit)}

    def cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
        d = found[row["id"]]
        return d.id, d.job_id, d.state, d.attempts, _next(d), _answer(d), short(d.url, 60)

    header = ("id", "job", "state", "attempts", "next", "last answer", "url")
    if not app.out.rows(
        map(_as_dict, found.values()),
        id="id",
        header=header,
        cells=cells,
        drop=("attempts", "next", "job", "url"),
        wide=("last answer", "url"),
    ):
        app.out.say("no deliveries")


@webhook.command("show")
@click.argument("id")
@pass_app
def show(app: App, id: str) -> None:
    """Show one delivery, with its body."""
    preflight.check(app, broker=False)
    delivery = app.store.get_delivery(id)
    if app.out.json:
        app.out.data(_as_dict(delivery) | {"payload": json.loads(delivery.payload)})
        return
    app.out.pairs(
        [
            ("id", delivery.id),
            ("job", delivery.job_id),
            ("url", delivery.url),
            ("state", delivery.state),
            ("attempts", delivery.attempts),
            ("next", _next(delivery)),
            ("last answer", _answer(delivery)),
            ("body", delivery.payload),
        ]
    )


@webhook.command("replay")
@click.argument("ids", nargs=-1, metavar="ID…")
@click.option("--dead", is_flag=True, help="All that were given up.")
@pass_app
def replay(app: App, ids: tuple[str, ...], dead: bool) -> None:
    """Deliver again, from the start of the schedule and under the same id. - reads ids from standard input."""
    if not ids and not dead:
        raise click.UsageError("Name a delivery (`penstock webhook list` shows them), or --dead.")
    preflight.check(app, broker=False)
    every = [*each_id(ids), *(d.id for d in (app.store.list_deliveries(state="dead", limit=10_000) if dead else ()))]
    for id in every:
        app.store.replay_delivery(id, now=now())
        if app.out.json:
            app.out.jsonl({"id": id, "state": "pending"})
        else:
            app.out.line(f"{id}  pending")


@webhook.command("verify")
@click.argument("body", metavar="FILE")
@click.option("--id", "message_id", required=True, metavar="ID", help="The header webhook-id.")
@click.option("--timestamp", required=True, metavar="SECONDS", help="The header webhook-timestamp.")
@click.option("--signature", required=True, metavar="SIGNATURE", help="The header webhook-signature.")
@click.option("--secret", metavar="KEY", help="whsec_…; default: this deployment's keys.", envvar="WEBHOOK_SECRET")
@pass_app
def verify(app: App, body: str, message_id: str, timestamp: str, signature: str, secret: str | None) -> None:
    """Check the signature of a received webhook.

    Its body is in FILE (or -), and it has three headers. Exit 1 if it is forged.
    """
    raw = sys.stdin.buffer.read() if body == "-" else _bytes(Path(body))
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
    event = _signer(app, secret).verify(raw, headers)
    if app.out.json:
        app.out.data({"valid": True, "event": event})
    else:
        app.out.line("valid")


@webhook.command("listen")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Listen here.")
@click.option("--port", type=click.IntRange(0, 65535), default=8900, show_default=True, help="Listen there.")
@click.option("--secret", metavar="KEY", help="whsec_…; default: this deployment's keys.", envvar="WEBHOOK_SECRET")
@click.option("-n", "--count", type=click.IntRange(1), metavar="N", help="End after so many valid ones.")
@pass_app
def listen(app: App, host: str, port: int, secret: str | None, count: int | None) -> None:
    """Receive webhooks here, verify them, and print each as a JSON line. For trying them out.

    Private and plain-http addresses are accepted and called only with PENSTOCK_WEBHOOK__ALLOW_PRIVATE=true: set it for
    `penstock up` (or the dispatcher) and for whoever submits.
    """
    from penstock.webhooks.listener import Listener, Received

    seen = 0
    done = threading.Event()

    def received(message: Received) -> None:
        nonlocal seen
        if message.problem is not None:
            app.out.warn(f"{message.id or 'a request without webhook-id'}: {message.problem}")
            return
        app.out.jsonl(message.event)
        app.out.say(f"{message.id}: valid" + (", delivered again" if message.repeated else ""))
        seen += 1
        if seen == count:
            done.set()

    with (
        Signals() as signals,
        Listener(_signer(app, secret), received, host=host, port=port) as listener,
    ):
        app.out.say(f"listening: {listener.url}")
        if not app.settings.webhook.allow_private:
            # Whoever submits checks the address as the dispatcher does.
            app.out.say(f"it is a private address: start `penstock up` (or the dispatcher) with {_ALLOW}, too")
        allow = "" if app.settings.webhook.allow_private else f"{_ALLOW} "
        app.out.say(f"try: {allow}penstock submit MODEL INPUT --webhook {listener.url}")
        while not done.wait(0) and not signals.wait(LOOK_S):
            pass


_ALLOW = "PENSTOCK_WEBHOOK__ALLOW_PRIVATE=true"


def _signer(app: App, secret: str | None) -> Any:
    from penstock.webhooks import Signer, load_signer

    return load_signer(app.settings) if secret is None else Signer([secret])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}.") from None


def _as_dict(delivery: Any) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "job_id": delivery.job_id,
        "url": delivery.url,
        "type": delivery.type,
        "state": str(delivery.state),
        "attempts": delivery.attempts,
        "next_at": isoformat(delivery.next_at),
        "status_code": delivery.status_code,
        "error": delivery.error,
    }


def _next(delivery: Any) -> str | None:
    return isoformat(delivery.next_at) if delivery.state == "pending" else None


def _answer(delivery: Any) -> str | None:
    return delivery.error or (f"HTTP {delivery.status_code}" if delivery.status_code else None)
