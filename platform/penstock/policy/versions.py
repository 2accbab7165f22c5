"""Which versions of a model are served, by whom, and whether that is what somebody wanted: PURE.

Workers announce of each model its version, a fingerprint of its code and its input's schema. Jobs that ask for no
version go to whoever is free, so two versions beside each other answer in turns: a deployment that is under way, or one
that was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from penstock.lane import full_name

#: Most workers that a warning names.
NAMED = 3


class Served(NamedTuple):
    """What one live worker announced of a model."""

    worker: str
    info: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Of the model."""
        return str(self.info.get("version") or "")


def by_version(served: Iterable[Served]) -> dict[str, list[str]]:
    """The workers of each version."""
    found: dict[str, list[str]] = {}
    for one in served:
        found.setdefault(one.version, []).append(one.worker)
    return dict(sorted(found.items()))


def warnings(model: str, served: Iterable[Served]) -> list[str]:
    """What somebody should know who expects the same answer from every worker."""
    served = list(served)
    found = []
    versions = by_version(served)
    for version in versions:
        kinds: dict[tuple[Any, str], list[str]] = {}
        for one in served:
            # Workers of earlier releases announce no code.
            if one.version == version and one.info.get("code") is not None:
                kinds.setdefault((one.info["code"], repr(one.info.get("schema"))), []).append(one.worker)
        if len(kinds) > 1:
            groups = " / ".join(_named(workers) for workers in kinds.values())
            found.append(f"{full_name(model, version)} is not the same code on all workers: {groups}")
    if len(versions) > 1:
        groups = ", ".join(f"{version} ({_named(workers)})" for version, workers in versions.items())
        found.append(f"jobs for {model!r} without a version run on any of {groups}")
    return found


def differing(graphs: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
    """The same of pipelines: of each live worker, the digests of its graphs by name."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for worker, mine in graphs:
        for name, digest in mine.items():
            kinds.setdefault(name, {}).setdefault(digest, []).append(worker)
    return [
        f"pipeline {name!r} is not the same graph on all workers: {' / '.join(map(_named, of.values()))}"
        for name, of in sorted(kinds.items())
        if len(of) > 1
    ]


def _named(workers: list[str]) -> str:
    more = len(workers) - NAMED
    return ", ".join(workers[:NAMED]) + (f" and {more} more" if more > 0 else "")
