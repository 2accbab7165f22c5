"""The stack: everything that ``penstock up`` starts, as one thing that starts, is ready, and stops."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from penstock import private
from penstock.clock import monotonic_s
from penstock.errors import ModelLoadFailed, PenstockError, StoreUnavailable, Unreachable, install
from penstock.processes.agreed import EXIT_NOT_LOADED
from penstock.processes.child import Child
from penstock.processes.lastwords import last_error
from penstock.processes.service import Service
from penstock.processes.watch import Guardian
from penstock.settings import Settings
from penstock.transport.embedded import EmbeddedBroker
from penstock.urltext import safe_url
from penstock.waiting import passes, until_reachable
from penstock_cli.childenv import child_env
from penstock_cli.servers import check_broker
from penstock_cli.up import owner, ports, ready, schema
from penstock_cli.up.plan import BROKER, WORKERS, dashboard_service, dispatcher_service
from penstock_cli.up.probe import ModelInfo, Probe, placed
from penstock_cli.up.state import ChildState, Lease, State, born_at
from penstock_cli.up.workers import Workers

#: How long the slowest model may take to load before `up` gives up, seconds.
READY_TIMEOUT_S = 300.0
#: How long a child may take to stop while the stack is not ready, seconds.
UNREADY_STOP_S = 3.0
#: How often a wait is interrupted to look whether it should end, seconds.
LOOK_S = 0.1
#: How often the embedded broker is looked at, seconds.
BROKER_EVERY_S = 1.0


class Stack:
    """Broker, schema, dispatcher, workers and dashboard for one ``home``, as child processes.

    ``start`` launches all, ``wait_ready`` returns when every worker has its models loaded, ``stop`` ends all in order:
    workers (they finish what they run) and dashboard, dispatcher, broker. A child that crashes later is started
    again. When this process is killed, the children are stopped in the same order by the guardian.

    Each pool has exactly so many ``workers``; without it, as many as its work needs, up to what this machine has room
    for.

    ``modules`` are added to ``settings.models``. ``say`` gets one line for each thing that a person should know. The
    database under ``home`` is migrated; another one only with ``migrate``. ``check`` is called between the steps of
    ``start`` and while ``wait_ready`` waits; what it raises ends them.
    """

    def __init__(
        self,
        settings: Settings,
        modules: Sequence[str] = (),
        *,
        workers: int | None = None,
        dashboard: bool = True,
        port: int | None = None,
        migrate: bool = False,
        say: Callable[[str], None] = lambda line: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        every = list(dict.fromkeys([*settings.models, *modules]))
        self.settings = settings.model_copy(update={"models": every})
        self.models: list[ModelInfo] = []
        self._dashboard = dashboard
        self._port = port
        self._migrate = migrate
        self._say = say
        self._check = check
        self._env = child_env(self.settings)
        self._lease = Lease(settings.home)
        self._guardian = Guardian()
        self._broker = EmbeddedBroker(settings.home, socket=settings.broker_socket)
        self._broker_pid: int | None = None
        self._children: list[Child] = []
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self.workers = Workers(
            self.settings,
            count=workers,
            env=self._env,
            logs=self.logs,
            guardian=self._guardian,
            say=say,
            on_change=self._on_change,
        )
        self._watcher = threading.Thread(target=self._watch_broker, name="penstock-up-broker", daemon=True)
        self.state = State(pid=os.getpid(), born_at=born_at(os.getpid()), home=str(settings.home), logs=str(self.logs))

    @property
    def logs(self) -> Path:
        """Where each child writes ``NAME.log``."""
        return self.settings.home / "logs"

    @property
    def dashboard_url(self) -> str | None:
        """The dashboard's address, ``None`` when it does not run."""
        return self.state.dashboard

    # Life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launch everything. Raises ``AlreadyRunning``, or the error of the part that cannot start."""
        old = self._lease.acquire()
        try:
            self._start(old)
        except BaseException:
            self.stop()
            raise

    def _start(self, old: State | None) -> None:
        settings = self.settings
        if old is not None:
            self._clear(old)
        private.folder(self.logs)
        self._guardian.start()
        probe = Probe(settings.models, self._env)  # imports the models while the broker starts
        try:
            if settings.embedded_broker:
                self._start_broker()
            self._check()
            self._wait("broker", lambda: check_broker(settings))
            self._wait("database", lambda: schema.prepare(settings, migrate=self._migrate, say=self._say))
            # A replica or a full disk answers the question above, and takes no key.
            self._wait("broker", lambda: owner.prepare(settings, say=self._say))
            found = probe.result(self._check)
        finally:
            probe.close()
        self.models, faults = placed(found.models, settings.served_pools())
        for fault in faults:
            self._say(fault)
        self.state.pipelines = list(found.pipelines)
        self._describe()
        self._children = [self._child(service) for service in (dispatcher_service(), *self._dashboard_services())]
        self.workers.start(self.models, found.pipelines)
        for child in self._children:
            child.start()
        if settings.embedded_broker:
            self._watcher.start()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when every worker serves and the dashboard answers.

        Raises ``ModelLoadFailed`` with the model's own words, or ``PenstockError`` with the end of the log of the
        child that did not come up. The stack is not stopped by that: the caller does.
        """
        until = monotonic_s() + timeout_s
        while True:
            self._check()
            self._raise_if_ended()
            missing = self._missing()
            if not missing and ready.dashboard_answers(self.dashboard_url):
                break
            if monotonic_s() >= until:
                raise PenstockError(
                    f"not ready after {timeout_s:g} s: {', '.join(sorted(missing)) or 'the dashboard'}",
                    fix=f"read the logs in {self.logs}",
                )
            with self._changed:  # a child that ends wakes us at once
                self._changed.wait(0.05)
        for child in self._children:
            child.restart = True
        self.workers.ready = True
        self._raise_if_ended()  # one that ended just before it was allowed to restart
        self.state.ready = True
        self._publish()

    def _missing(self) -> set[str]:
        """The workers that do not serve yet; nothing is known of them while the database is away."""
        try:
            return self.workers.missing()
        except StoreUnavailable as error:
            if not passes(error):
                raise
            return {"the workers"}

    def wait(self) -> None:
        """Block until another thread calls ``stop``."""
        self._stopping.wait()

    def stop(self) -> None:
        """Stop everything, in order, and wait for it. Can be called again, and after a failed ``start``."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        dashboard = [child for child in self._children if child.service.stage == WORKERS]
        for child in dashboard:  # it ends while the workers do
            child.ask_to_stop()
        self.workers.stop(unready_s=UNREADY_STOP_S)
        for stage in sorted({child.service.stage for child in self._children}):
            group = [child for child in self._children if child.service.stage == stage]
            for child in group:
                child.ask_to_stop()
            for child in group:
                # Before all is ready there is nothing to finish: a model that loads for minutes is not waited for.
                timeout_s = child.service.stop_timeout_s if self.state.ready else UNREADY_STOP_S
                if not child.join(timeout_s):
                    self._say(f"{child.service.name} did not stop in {timeout_s:g} s: killed")
        self._children = []
        if self._broker_pid is not None:
            self._broker.stop()
            self._guardian.remove(self._broker_pid)
            self._broker_pid = None
        self._guardian.stop()
        self._lease.release()

    def kill(self) -> None:
        """While another thread is in ``stop``: do not wait for what runs."""
        self.workers.hurry()
        for child in self._children:
            if (pid := child.pid) is not None:
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    for each in [process, *process.children(recursive=True)]:
                        each.kill()

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Steps ----------------------------------------------------------------------------------------------------

    def _clear(self, old: State) -> None:
        """Stop what a killed predecessor left running, should its guardian have been killed too."""
        for stage in sorted({child.stage for child in old.children}):
            left = [p for child in old.children if child.stage == stage and (p := child.process()) is not None]
            for process in left:
                with suppress(psutil.Error):
                    process.terminate()
            _, stubborn = psutil.wait_procs(left, timeout=self.settings.worker.drain_s + 10.0)
            for process in stubborn:
                with suppress(psutil.Error):
                    for each in [process, *process.children(recursive=True)]:
                        each.kill()
            if left:
                self._say(f"stopped {len(left)} process(es) that a killed `penstock up` had left")

    def _wait(self, server: str, call: Callable[[], None]) -> None:
        """For a server that is not there yet; a line per try."""

        def tell(error: Unreachable, again_s: float) -> None:
            self._say(f"waiting for the {server}: {error.message} (next try in {again_s:g} s)")

        def pause(seconds: float) -> None:
            until = monotonic_s() + seconds
            while (left_s := until - monotonic_s()) > 0:
                self._check()
                self._stopping.wait(min(left_s, LOOK_S))

        until_reachable(call, tell=tell, pause=pause)

    def _start_broker(self) -> None:
        self._broker.start()
        self._broker_pid = self._broker.pid
        if self._broker_pid is not None:
            self._guardian.add(self._broker_pid, stage=BROKER, grace_s=10.0)

    def _watch_broker(self) -> None:
        while not self._stopping.wait(BROKER_EVERY_S):
            pid = self._broker_pid
            if pid is None or _alive(pid):
                continue
            self._guardian.remove(pid)
            self._say(f"the broker ended; starting it again (log: {self._broker.log})")
            try:
                self._start_broker()
                self._publish()
            except PenstockError as error:
                self._say(f"the broker does not start: {error.message}")

    def _dashboard_services(self) -> list[Service]:
        if not self._dashboard:
            return []
        options = self.settings.dashboard
        if not ports.dashboard_installed():
            self._say(f"no dashboard: it is not installed ({install('dashboard')})")
            return []
        wanted = options.port if self._port is None else self._port
        port = ports.free_port(options.host, wanted, exact=self._port is not None)
        if port != wanted and wanted:
            self._say(f"port {wanted} is taken; the dashboard uses {port}")
        self.state.dashboard = f"http://{ports.in_url(options.host)}:{port}"
        return [dashboard_service(options.host, port)]

    def _child(self, service: Service) -> Child:
        return Child(
            service,
            log=self.logs / f"{service.name}.log",
            env=self._env,
            guardian=self._guardian,
            say=self._say,
            on_change=self._on_change,
        )

    def _on_change(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if not self._stopping.is_set():
            self._publish()

    def _raise_if_ended(self) -> None:
        if not self.state.ready:
            self.workers.raise_if_failed()
        for child in self._children:
            if child.ended is None:
                continue
            kind = ModelLoadFailed if child.ended == EXIT_NOT_LOADED else PenstockError
            tail = child.tail()
            said = last_error(tail)
            if said is not None:
                raise kind(f"{said[0]} ({child.service.name}, log: {child.log})", fix=said[1])
            shown = "\n".join(f"  | {line}" for line in tail)
            raise kind(f"{child.service.name} did not start:\n{shown}", fix=f"mend that; the whole log: {child.log}")

    def _describe(self) -> None:
        state = self.state
        state.broker = safe_url(self.settings.broker)
        state.database = safe_url(self.settings.database)
        state.modules = list(self.settings.models)
        state.models = [model.name for model in self.models if not model.function]
        state.functions = [model.name for model in self.models if model.function]
        state.example = ready.example_command(self.settings, self.models)

    def _publish(self) -> None:
        state = self.state
        children = [
            ChildState(
                name=child.service.name,
                pid=pid,
                born_at=born_at(pid),
                log=str(child.log),
                stage=child.service.stage,
            )
            for child in self._children
            if (pid := child.pid) is not None
        ]
        children += [
            ChildState(
                name=worker.name,
                pid=worker.handle.pid,
                born_at=worker.handle.born_at,
                log=str(worker.log),
                stage=WORKERS,
            )
            for worker in self.workers.running
        ]
        if self._broker_pid is not None:
            children.append(
                ChildState(
                    name="broker",
                    pid=self._broker_pid,
                    born_at=born_at(self._broker_pid),
                    log=str(self._broker.log),
                    stage=BROKER,
                )
            )
        with self._changed:
            state.children = children
            if not self._stopping.is_set():
                self._lease.write(state)


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
