"""``penstock demo``: the whole path on real input, measured and checked.

Starts a deployment of its own in a temporary folder (embedded broker, SQLite, dispatcher, one worker, dashboard), runs
the search example against it, prints what was measured, and stops everything. What you have running stays untouched.
"""

from __future__ import annotations

import queue
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.errors import FAILED, INTERRUPTED, OK
from penstock_cli.output import animated
from penstock_cli.services import Signals, Stop, interruptible

if TYPE_CHECKING:
    from penstock import Client
    from penstock.settings import Settings
    from penstock.store import Store
    from penstock.webhooks.listener import Received
    from penstock_cli.examples.search.corpus import Passage
    from penstock_cli.examples.search.report import Report
    from penstock_cli.examples.search.runs import Run
    from penstock_cli.examples.search.traffic import Answer, Measured, Phase
    from penstock_cli.up import Stack

MODELS = ["penstock_cli.examples.search.pipeline", "penstock_cli.examples.search.alone:EmbedAlone"]
#: A callback is sent as soon as its job is settled; this is how long a slow machine may take, seconds.
_WEBHOOK_TIMEOUT_S = 30.0
#: Characters of the longest sentence, about 14 tokens: on a CPU, reading the weights costs as much as computing with
#: them for so few, which is what a batch shares.
SHORT = 64


@verb()
@click.option("--passages", type=click.IntRange(min=3), default=400, show_default=True, help="Sentences to embed.")
@click.option("--all", "everything", is_flag=True, help="Embed all short sentences, about 1,050.")
@click.option("--rate", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="Questions a second.")
@click.option("--no-dashboard", is_flag=True, help="Do not start the dashboard.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
@pass_app
def command(app: App, passages: int, everything: bool, rate: float, no_dashboard: bool, keep: bool) -> int:
    """Watch real text go through the queue into a real model and come back as answers.

    Embeds sentences of Python's language reference, one at a time and then a burst of them in batches, and the rest
    while questions arrive, each a run of a pipeline that finds the best of them. Ends with a table, with what batching
    brought, with a check of all vectors and answers against ones computed without the queue (exit status 1 when they
    differ), and with the steps of one of the runs. Takes under two minutes on two cores.
    """
    from penstock_cli.examples.search.corpus import passages as read
    from penstock_cli.examples.search.minilm import folder
    from penstock_cli.up import Stack, patience

    _require_torch()
    folder()  # the weights: better missed now than in a worker's log
    texts = read(None if everything else passages, most_chars=SHORT)
    report: Report | None = None
    run: Run | None = None
    with _home(app) as home:
        settings = _settings(app, home)
        app.log_to_stderr()
        with Signals() as signals:
            stack = Stack(settings, MODELS, dashboard=not no_dashboard, say=app.out.say, check=signals.check)
            try:
                app.out.say("starting broker, database, dispatcher, worker and dashboard …")
                stack.start()
                stack.wait_ready()
                with interruptible():
                    report, run = _measure(app, stack, texts, rate=rate, folder=home / "index")
                    _show(app, report, run)
                if keep:
                    app.out.say(f"everything goes on until Ctrl-C; try: penstock --home {home} job list")
                    signals.wait()
            except Stop:
                app.out.say("stopping …")
            finally:
                patience.stop(stack, signals)
    if report is None:
        return INTERRUPTED
    return OK if report.passed else FAILED


def _require_torch() -> None:
    from importlib.util import find_spec

    from penstock.errors import ConfigError, install

    if find_spec("torch") is None:
        raise ConfigError("the demo runs a real model and needs torch", fix=install("all"))


@contextmanager
def _home(app: App) -> Iterator[Path]:
    """The folder that ``--home`` names, or one that is removed in the end."""
    if "home" in app.flags:
        yield Path(app.flags["home"]).expanduser().absolute()
        return
    with tempfile.TemporaryDirectory(prefix="penstock-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _settings(app: App, home: Path) -> Settings:
    """Embedded, whatever the environment says of servers; flags are the user's own word and count."""
    ours: dict[str, Any] = {"broker_url": None, "result_url": None, "database_url": None}
    ours = {name: value for name, value in ours.items() if name not in app.flags}
    webhook = app.settings.webhook.model_copy(update={"allow_private": True})  # our receiver is on loopback
    return app.settings.model_copy(update=ours | {"home": home, "models": [], "webhook": webhook})


def _measure(app: App, stack: Stack, texts: list[Passage], *, rate: float, folder: Path) -> tuple[Report, Run]:
    """Send the traffic and check what came back, the webhook included; also a run to show."""
    from penstock import Client
    from penstock.store import Store
    from penstock.webhooks import load_signer
    from penstock.webhooks.listener import Listener

    if stack.dashboard_url:
        app.out.say(f"dashboard: {stack.dashboard_url}")
    folder.mkdir(exist_ok=True)
    received: queue.Queue[Received] = queue.Queue()
    with Listener(load_signer(stack.settings), received.put) as listener, Client(stack.settings) as client:
        measured = _run(app, client, texts, rate=rate, folder=folder, webhook=listener.url)
        with closing(Store.open(stack.settings.database)) as store:
            return _report(app, store, measured, received, stack.dashboard_url)


def _run(app: App, client: Client, texts: list[Passage], *, rate: float, folder: Path, webhook: str) -> Measured:
    """The traffic, with a progress bar on a terminal and a few plain lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    from penstock_cli.examples.search.corpus import QUESTIONS
    from penstock_cli.examples.search.traffic import Traffic

    console = Console(stderr=True, quiet=app.out.quiet, highlight=False)
    console.print(f"{len(texts)} passages to embed: some one at a time, a burst in batches, and the rest beside")
    console.print(f"{rate:g} questions a second, each answered with the best of those that are embedded by then:")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=app.out.quiet or not animated()) as progress:
        bar = progress.add_task("passages embedded", total=len(texts))
        shown: set[str] = set()

        def answered(answer: Answer) -> None:
            # Each question once, and not before there is something to find.
            if answer.found and answer.question not in shown and len(shown) < len(QUESTIONS):
                shown.add(answer.question)
                best = texts[answer.found[0]["place"]]
                lines = Text.assemble(
                    ("  " + answer.question, "bold"),
                    f"  {answer.latency_s * 1000:.0f} ms\n",
                    (f"    {best.topic}: {best.title()}", "dim"),
                )
                progress.console.print(lines, soft_wrap=True)

        return Traffic(
            client,
            texts,
            rate=rate,
            folder=folder,
            webhook=webhook,
            on_passage=lambda done: progress.update(bar, completed=done),
            on_answer=answered,
        ).run()


def _report(
    app: App, store: Store, measured: Measured, received: queue.Queue[Received], dashboard: str | None
) -> tuple[Report, Run]:
    from penstock_cli.examples.search.check import check
    from penstock_cli.examples.search.report import LaneReport, Report, lane_report, latencies
    from penstock_cli.examples.search.runs import read, typical

    def lane(phase: Phase) -> LaneReport:
        jobs = [store.get(id) for id in phase.ids]
        return lane_report(
            [[job] for job in jobs],
            [job.ledger.settled_at - job.ledger.accepted_at for job in jobs if job.ledger.settled_at],
        )

    runs = {answer.id: read(store, answer.id) for answer in (*measured.answers, *measured.complete)}
    lanes = {name: lane(getattr(measured, name)) for name in ("beside", "alone", "burst")}
    app.out.say("computing the same without the queue …")
    report = Report(
        jobs=sum(each.jobs for each in lanes.values()) + sum(len(each.steps) for each in runs.values()),
        runs=len(runs),
        alone_per_s=measured.alone.per_s,
        burst_per_s=measured.burst.per_s,
        interactive=lane_report(
            [runs[answer.id].critical for answer in measured.answers],
            [answer.latency_s for answer in measured.answers],
        ),
        while_embedding=latencies(answer.latency_s for answer in measured.answers if answer.beside),
        refused=sum(answer.refused > 0 for answer in [*measured.answers, *measured.complete]),
        background=lanes["beside"],
        alone=lanes["alone"],
        burst=lanes["burst"],
        check=check(
            measured.index,
            measured.complete,
            {answer.question: runs[answer.id].vector for answer in measured.complete},
            alone=measured.alone_vectors,
        ),
        webhook=_webhook(received, measured.answers[0].id),
        dashboard=dashboard,
    )
    return report, runs[typical(measured.answers)]


def _webhook(received: queue.Queue[Received], job_id: str) -> str | None:
    """The type and job of the event that came for the first question; ``None`` when none did, or a forged one."""
    try:
        message = received.get(timeout=_WEBHOOK_TIMEOUT_S)
    except queue.Empty:
        return None
    if not message.verified or message.event["data"]["id"] != job_id:
        return None
    return f"{message.event['type']}, job {job_id}"


def _show(app: App, report: Report, run: Run) -> None:
    from rich.console import Console

    from penstock.pipelines.show.draw import draw
    from penstock_cli.examples.search.report import show
    from penstock_cli.runshow import run_dict, table
    from penstock_cli.runview import views

    if app.out.json:
        app.out.data(report.as_dict() | {"run": run_dict(run.run, run.standing, run.cost, failed=False)})
        return
    show(report, Console(file=sys.stdout))
    app.out.line(f"one run    of a question in the middle, {run.run.input['question']!r}: what its steps are given,")
    app.out.line("           and where its time went, as `penstock job get` shows it")
    app.out.line()
    for line in draw(run.standing.graph, width=app.out.width):
        app.out.line(line)
    app.out.line()
    table(app, run.run, views(run.run, run.standing))
