"""The dashboard as a person sees it. Needs Chromium: run by ``make browser``."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Chromium:
    """Opens one page at a time, runs its scripts, and keeps a picture."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def open(self, url: str, name: str) -> str:
        """The page as the scripts left it; the picture is ``name.png``. The content policy has forbidden nothing."""
        done = subprocess.run(
            [
                self._program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--enable-logging=stderr",
                "--window-size=1280,800",
                f"--user-data-dir={self._folder / 'profile'}",
                "--virtual-time-budget=10000",
                f"--screenshot={self._folder / name}.png",
                "--dump-dom",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (self._folder / f"{name}.png").stat().st_size > 5_000, done.stderr
        assert "Content Security Policy" not in done.stderr, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Chromium:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: apt install chromium")
    return Chromium(program, tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="module")
def dashboard(up: Penstock) -> Iterator[str]:
    running = up.start("dashboard", "--port", "0")
    try:
        url = running.says("dashboard: ").split("dashboard: ")[1].strip()
        until(f"{url}/workers", "worker-default-1@")  # it hears events by now
        yield url
        assert running.stop() == 0
    finally:
        running.close()


def until(url: str, words: str) -> None:
    """Wait until the server has something to show."""
    ends = time.monotonic() + 30
    page = ""
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                page = answer.read().decode()
        except urllib.error.HTTPError as error:
            error.close()
        if words in page:
            return
        time.sleep(0.05)
    raise AssertionError(f"{url} never had {words!r}:\n{page}")


def test_the_task_list_shows_a_job_and_its_worker(up: Penstock, dashboard: str, chromium: Chromium) -> None:
    id = up("run", "double", "21", "--json").json()["id"]
    until(f"{dashboard}/task/{id}", "SUCCESS")
    page = chromium.open(f"{dashboard}/tasks", "tasks")
    assert id in page and "SUCCESS" in page
    assert "worker-default-1@" in page


def test_the_broker_page_shows_our_queues(dashboard: str, chromium: Chromium) -> None:
    page = chromium.open(f"{dashboard}/broker", "broker")
    assert "penstock.double.interactive" in page and "penstock.double.background" in page


def test_the_pages_scripts_run_under_the_content_policy(up: Penstock, dashboard: str, chromium: Chromium) -> None:
    page = chromium.open(f"{dashboard}/workers", "workers")
    assert "Connecting" not in page  # what its script has replaced
    name = "worker-default-1@" + page.partition("worker-default-1@")[2].partition("<")[0].partition('"')[0]
    until(f"{dashboard}/worker/{name}", "Worker pool options")
    detail = chromium.open(f"{dashboard}/worker/{name}", "worker")
    assert "penstock.double.interactive" in detail
