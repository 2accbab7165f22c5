"""Files and folders that are nobody else's business: 0700 and 0600, whatever the umask, and however they came about.

A database or a signing key that others can write can be replaced; one that they can read is no secret. What is ours and
too open is closed when a service starts, and ``penstock doctor`` names what cannot be.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from penstock.errors import ConfigError

FOLDER, FILE = 0o700, 0o600
#: What others may have of a file of ours: nothing.
_OTHERS = 0o077


def folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, which only we can enter; close one of ours that is open."""
    try:
        for missing in reversed([place for place in (path, *path.parents) if not place.exists()]):
            with suppress(FileExistsError):  # another process was faster
                missing.mkdir(mode=FOLDER)
            # The mode of mkdir is cut by the umask.
            missing.chmod(FOLDER)
    except OSError as error:
        raise ConfigError(
            f"the folder {path} cannot be made: {error.strerror}", fix="choose another one with PENSTOCK_HOME"
        ) from error
    close(path)
    return path


def file(path: Path) -> Path:
    """Make an empty file that only we can read, unless it is there; close one of ours that is open."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE)
    try:
        if not os.fstat(handle).st_size and os.fstat(handle).st_uid == os.getuid():
            os.fchmod(handle, FILE)
    finally:
        os.close(handle)
    close(path)
    return path


def close(path: Path) -> bool:
    """Take from others what they may do with it, if it is ours; whether there was something to take."""
    with suppress(OSError):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_uid == os.getuid() and status.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS, follow_symlinks=True)
            return True
    return False


def tighten(home: Path) -> None:
    """Close a home and all in it that is ours and open."""
    for path in inside(home):
        close(path)


def inside(home: Path) -> Iterator[Path]:
    """The home, and what penstock keeps there. What else a user may have put into the folder is not ours to judge."""
    yield home
    with suppress(OSError):
        for path in sorted(home.iterdir()):
            if path.name.startswith(("penstock.db", "webhook.secret", ".webhook.")):
                yield path
            elif path.name in ("broker", "run", "logs"):
                yield path
                if path.is_dir() and not path.is_symlink():
                    yield from _below(path)


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(root, name)


def open_places(home: Path) -> list[str]:
    """What is wrong with the home's safety, a line each: who could read or replace what is in it."""
    if not home.exists():
        return []
    found: list[str] = []
    for path in inside(home):
        with suppress(OSError):
            found += _faults(path, path.lstat())
    for path in home.resolve().parents:
        with suppress(OSError):
            status = path.stat()
            # A sticky folder, as /tmp is, lets others add files and not rename ours.
            if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
                found.append(f"everybody may rename what is in {path}")
            if status.st_uid not in (0, os.getuid()):
                found.append(f"{path} belongs to the user {status.st_uid}, who may rename what is in it")
    return found


def _faults(path: Path, status: os.stat_result) -> Iterator[str]:
    if stat.S_ISLNK(status.st_mode):
        with suppress(OSError):
            yield from _faults(path, path.stat())
        return
    if status.st_uid not in (0, os.getuid()):
        yield f"{path} belongs to the user {status.st_uid}"
    elif status.st_mode & 0o022:
        yield f"others may write {path}"
    elif status.st_mode & 0o044:
        yield f"others may read {path}"
    elif status.st_mode & 0o011 and stat.S_ISDIR(status.st_mode):
        yield f"others may enter {path}"
