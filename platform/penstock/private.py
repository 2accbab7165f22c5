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
#: The umask of a child process that makes files of ours.
UMASK = 0o077

#: What penstock keeps in a home.
_FOLDERS = frozenset({"broker", "run", "logs", "artifacts"})
_FILES = ("penstock.db", "webhook.secret", ".webhook.")


def folder(path: Path) -> Path:
    """Make a folder that only we can enter, and those above it that are missing. One that is there stays as it is."""
    try:
        for missing in reversed([place for place in (path, *path.parents) if not place.exists()]):
            with suppress(FileExistsError):  # another process was faster
                missing.mkdir(mode=FOLDER)
                # A umask cuts the mode of mkdir, and a folder's default rules (ACLs) may widen it.
                missing.chmod(FOLDER)
    except OSError as error:
        raise ConfigError(
            f"the folder {path} cannot be made: {error.strerror}", fix="choose another one with --home or PENSTOCK_HOME"
        ) from error
    return path


def file(path: Path) -> Path:
    """Make an empty file that only we can read and write, unless it is there; close one of ours that is open."""
    with suppress(FileExistsError):
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE)
        try:
            os.fchmod(handle, FILE)  # a umask may have taken from us, too
        finally:
            os.close(handle)
    close(path)
    return path


def close(path: Path) -> None:
    """Take from others what they may do with a file or folder, if it is ours and no link."""
    with suppress(OSError):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_uid == os.getuid() and status.st_mode & UMASK:
            path.chmod(stat.S_IMODE(status.st_mode) & ~UMASK)


def tighten(home: Path) -> None:
    """Close a home and all in it that is ours and open.

    A folder that holds other things too, ``/var/lib`` say, is not closed: others may need it. Our files in it are.
    """
    home = home.resolve()
    if _is_ours(home):
        for path in inside(home):
            close(path)
    else:
        for path in _files(home):
            close(path)


def inside(home: Path) -> Iterator[Path]:
    """The home, and what penstock keeps there."""
    yield home
    yield from _files(home)
    for name in sorted(_FOLDERS):
        for root, _, files in os.walk(home / name):
            yield Path(root)
            yield from (Path(root, file) for file in files)


def open_places(home: Path) -> list[str]:
    """Who could read or replace what is in a home: a line for each place."""
    if not home.exists():
        return []
    home = home.resolve()
    found: list[str] = []
    for path in inside(home) if _is_ours(home) else (home, *_files(home)):
        with suppress(OSError):
            found += _faults(path, path.stat())
    for path in home.parents:
        with suppress(OSError):
            status = path.stat()
            # In a sticky folder, as /tmp is, others can add files and not rename ours. Many systems give each user a
            # group of their own, and folders that it may write.
            others = status.st_mode & 0o002 or (status.st_mode & 0o020 and status.st_gid not in (0, os.getgid()))
            if others and not status.st_mode & stat.S_ISVTX:
                found.append(f"others may write {path}, and so rename what is in it")
            elif status.st_uid not in (0, os.getuid()):
                found.append(f"{path} belongs to the user {status.st_uid}, who may rename what is in it")
    return found


def _faults(path: Path, status: os.stat_result) -> Iterator[str]:
    if status.st_uid not in (0, os.getuid()):
        yield f"{path} belongs to the user {status.st_uid}"
    elif status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        yield f"others may write {path}"
    elif status.st_mode & 0o055:
        yield f"others may read {path}"


def _is_ours(home: Path) -> bool:
    """Whether nothing else is in it."""
    try:
        names = [path.name for path in home.iterdir()]
    except OSError:
        return False
    return all(name in _FOLDERS or name.startswith(_FILES) for name in names)


def _files(home: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in sorted(home.iterdir()) if path.name.startswith(_FILES))
