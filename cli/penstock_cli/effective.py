"""The effective settings, one leaf at a time, with the source of each."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from penstock.settings import Settings
from penstock.urltext import safe_url
from penstock_cli.output import dumps


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf: ``name`` is dotted, ``value`` is fit for JSON and holds no secret."""

    name: str
    value: Any
    source: str
    meaning: str

    @property
    def variable(self) -> str:
        """The variable that sets it."""
        return f"PENSTOCK_{self.name.replace('.', '__').upper()}"

    @property
    def text(self) -> str | None:
        """The value for a person."""
        if isinstance(self.value, list):
            return ", ".join(map(str, self.value)) or None
        if isinstance(self.value, dict):
            return dumps(self.value) if self.value else None
        return None if self.value is None else str(self.value)


def effective(settings: Settings, flags: Mapping[str, Any] | None = None) -> list[Setting]:
    """Every setting."""
    sources = _Sources(flags or {})
    found = [Setting(name, value, sources.of(name), meaning) for name, value, meaning in _leaves(settings)]
    implied = {"broker_url": settings.broker, "result_url": settings.results, "database_url": settings.database}
    return [
        Setting(item.name, safe_url(url), item.source, item.meaning)
        if item.name.endswith("_url") and (url := implied.get(item.name, item.value)) is not None
        else item
        for item in found
    ]


def _leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _plain(value), info.description or ""


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "(set, not shown)"
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        # What a setting of Celery's holds may be a password.
        return {
            name: item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else "(set, not shown)"
            for name, item in value.items()
        }
    return str(value) if isinstance(value, Path) else value


class _Sources:
    """Which source says something about a leaf; the first of them wins."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = flags
        self._variables = {name.upper() for name in os.environ if name.upper().startswith("PENSTOCK_")}
        secrets = os.environ.get("PENSTOCK_SECRETS_DIR")
        self._secrets = {p.name.upper(): p for p in Path(secrets).iterdir()} if secrets else {}
        self._file = Path(os.environ.get("PENSTOCK_CONFIG", "penstock.toml"))
        self._toml: dict[str, Any] = (
            tomllib.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        )

    def of(self, name: str) -> str:
        """The source of a dotted name."""
        path = name.split(".")
        # A section can also be given whole, as JSON in one variable.
        variables = [f"PENSTOCK_{'__'.join(path[:length]).upper()}" for length in range(len(path), 0, -1)]
        if _has(self._flags, path):
            return "flag"
        for variable in variables:
            if variable in self._variables:
                return variable
        for variable in variables:
            if variable in self._secrets:
                return str(self._secrets[variable])
        return str(self._file) if _has(self._toml, path) else "default"


def _has(tree: Mapping[str, Any], path: list[str]) -> bool:
    node: Any = tree
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
