"""Paths of steps, and of a map's elements: ``embed``, ``embed[7]``."""

from __future__ import annotations


def element(name: str, index: int) -> str:
    """The path of one of a map's elements."""
    return f"{name}[{index}]"


def place(path: str) -> tuple[str, int | None]:
    """The name of a path's step, and which element of a map it is, if any."""
    name, bracket, rest = path.partition("[")
    return name, int(rest[:-1]) if bracket else None


def elements_of(name: str) -> dict[str, str]:
    """Parameters of a statement that finds a map's elements by an index: ``path >= :low AND path < :high``."""
    return {"low": f"{name}[", "high": f"{name}\\"}  # the character after a bracket is a backslash
