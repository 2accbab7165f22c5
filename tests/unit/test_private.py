"""Homes are closed, whatever the umask and however they came about."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock_migrations
from penstock import private
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.embedded import EmbeddedBroker
from penstock.webhooks.signing import local_key
from penstock_cli.up.state import Lease, State
from tests.fixtures.store import make_job


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


def modes(home: Path) -> dict[str, str]:
    """What is open, by name."""
    found = {}
    for path in (home, *home.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_IMODE(mode) & 0o077 and not stat.S_ISLNK(mode):
            found[str(path.relative_to(home))] = oct(stat.S_IMODE(mode))
    return found


def test_all_that_is_made_is_closed(tmp_path: Path, umask: None) -> None:
    home = tmp_path / "a" / "home"
    settings = Settings(home=home)
    lease = Lease(home)
    lease.acquire()
    lease.write(State(pid=1, born_at=0.0))
    broker = EmbeddedBroker(home, socket=settings.broker_socket)
    broker.start()
    try:
        with broker._client() as client:
            client.set("a", "b")
            client.save()
        penstock_migrations.upgrade(settings.database)
        store = Store.open(settings.database)
        store.insert([make_job()])
        local_key(home)
        assert {"penstock.db-wal", "penstock.db-shm", "penstock.db.lock", "webhook.secret"} <= {
            path.name for path in home.iterdir()
        }
        assert any((home / "broker").iterdir())
        assert modes(home) == {}
        assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
        assert private.open_places(home) == [place for place in private.open_places(home) if str(home) not in place]
        store.close()
    finally:
        broker.stop()
        lease.release()


def test_what_is_found_open_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("run", "logs", "broker"):
        (home / name).mkdir(parents=True)
        (home / name / "x").touch()
        (home / name / "x").chmod(0o666)
        (home / name).chmod(0o777)
    for name in ("penstock.db", "penstock.db-wal", "webhook.secret"):
        (home / name).touch()
        (home / name).chmod(0o644)
    home.chmod(0o777)
    faults = private.open_places(home)
    assert f"others may write {home}" in faults and f"others may read {home}/webhook.secret" in faults
    link = tmp_path / "link"
    link.symlink_to(home)
    private.tighten(link)
    assert modes(home) == {}
    assert not any(str(home) in fault for fault in private.open_places(link))


def test_a_folder_with_other_things_is_left_open(tmp_path: Path) -> None:
    """``PENSTOCK_HOME=/var/lib``, as root: a system that nobody can use any more would be worse."""
    (tmp_path / "somebody_elses").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "penstock.db").touch()
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)
    private.tighten(tmp_path)
    assert modes(tmp_path).keys() == {".", "somebody_elses", "run"}
    assert f"others may read {tmp_path}" in private.open_places(tmp_path)


def test_folders_above_that_others_may_write_are_named(tmp_path: Path) -> None:
    home = tmp_path / "open" / "home"
    private.folder(home)
    home.parent.chmod(0o777)
    assert any(f"others may write {home.parent}," in place for place in private.open_places(home))
    home.parent.chmod(0o1777)
    assert not any(f"{home.parent}," in place for place in private.open_places(home))


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    target.chmod(0o644)
    home = private.folder(tmp_path / "home")
    (home / "webhook.secret").symlink_to(target)
    private.tighten(home)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert private.open_places(home)[0].startswith("others may read")
