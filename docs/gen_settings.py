"""Writes ``docs/settings.md`` from the settings' own declarations: ``make docs``. A test holds the two together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from penstock.settings import Settings
from penstock.sources import each_of

PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
# Settings

Generated from `penstock.settings` by `make docs`.

Read once, when a program starts, from four sources. The first that names a setting wins:

1. keyword arguments (`Client(broker_url=…)`) and the command line's flags (`--set lease.ttl_s=10`),
2. environment variables: the prefix `PENSTOCK_`, and `__` for a dot,
3. files in the folder that `PENSTOCK_SECRETS_DIR` names, one setting each,
4. `penstock.toml` in the working directory, or the file that `PENSTOCK_CONFIG` names.

A list is a JSON array, or words with commas between: `PENSTOCK_MODELS=my_models,more_models`. A whole section can be
given as a JSON object: `PENSTOCK_LEASE='{"ttl_s": 10}'`. A variable that is empty counts as not set. Every number has
bounds, and an error names the place where the value was written.

A name that does not exist is an error, wherever it stands. With nothing set, broker and database are embedded and live
under `home`. `penstock config show` prints each value and its source.

```toml
# penstock.toml
broker_url = "rediss://:password@redis.example:6380/0"
database_url = "postgresql://penstock@db.example/penstock"
models = ["my_models"]

[lease]
ttl_s = 10
```
"""


def render() -> str:
    """The page's text."""
    top, sections, named = [], [], []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.append((name, field.annotation))
        else:
            top.append((name, field))
            if (each := each_of(field.annotation)) is not None:
                named.append((name, each))
    parts = [HEAD, "\n## Top level\n\n", _table(top)]
    for name, section in sections:
        parts += [f"\n## {name}\n\n{(section.__doc__ or '').strip()}\n\n", _table(_flat(name, section))]
    for name, section in named:
        parts += [f"\n## {name}\n\n{(section.__doc__ or '').strip()}\n\n", _table(_flat(f"{name}.NAME", section))]
    return "".join(parts)


def _flat(prefix: str, section: type[BaseModel], values: BaseModel | None = None) -> Iterator[tuple[str, FieldInfo]]:
    """A section's fields by their full names; ``values`` are the defaults that the section around it gives."""
    for name, field in section.model_fields.items():
        value = getattr(values, name) if values is not None else field.get_default(call_default_factory=True)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _flat(f"{prefix}.{name}", field.annotation, value)
        else:
            yield (
                f"{prefix}.{name}",
                FieldInfo(annotation=field.annotation, default=value, description=field.description),
            )


def _table(fields: Any) -> str:
    lines = ["| setting | variable | default | |", "|---|---|---|---|"]
    for name, field in fields:
        variable = "PENSTOCK_" + name.upper().replace(".", "__")
        value = field.get_default(call_default_factory=True)
        shown = "" if value is None else f"`{value}`" if value not in ([], {}) else "none"
        lines.append(f"| `{name}` | `{variable}` | {shown} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
