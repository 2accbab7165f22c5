"""Where settings are written, how their text is read, and what an error says of the place.

Variables, secret files, ``penstock.toml`` and flags take the same texts: a list is JSON or words with commas between, a
section is JSON. An error names the variable, the file or the flag, and never what stood in it, which may be a secret.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeGuard, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from penstock.errors import ConfigError

PREFIX = "PENSTOCK_"
#: Variables that steer the reading itself.
_META = frozenset({"PENSTOCK_CONFIG", "PENSTOCK_SECRETS_DIR"})


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return section(value)


class Environment(EnvSettingsSource):
    """The variables. One that is set and empty counts as not set, as ``${NAME:-}`` in a compose file means it."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, env_ignore_empty=True)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON where it is an array or an object; any other text is left to the setting's own validator."""
        try:
            decoded = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return decoded if isinstance(decoded, (list, dict)) else value


class SecretFiles(Environment):
    """The files in ``PENSTOCK_SECRETS_DIR``: each is named like a variable and holds its value."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {
            file.name.lower(): text for file in secret_files() if (text := file.read_text(encoding="utf-8").strip())
        }


def secret_files() -> list[Path]:
    """The files that set something. Raises ``ConfigError`` where the folder is none."""
    folder = os.environ.get("PENSTOCK_SECRETS_DIR")
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise ConfigError(f"PENSTOCK_SECRETS_DIR is {folder}, which is no folder", fix="correct or unset it")
    return sorted(file for file in Path(folder).iterdir() if file.name.upper().startswith(PREFIX) and file.is_file())


def config_file() -> Path:
    """``penstock.toml``, or the file that is named in its place."""
    return Path(os.environ.get("PENSTOCK_CONFIG") or "penstock.toml")


# Texts ------------------------------------------------------------------------------------------------------------


def section(value: Any) -> Any:
    """A section that may be given as the text of a JSON object."""
    return _json(value, dict, 'a JSON object such as {"name": value}') if isinstance(value, str) else value


def words(value: Any) -> Any:
    """A list that may be given as a JSON array, or as words with commas or spaces between."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json(value, list, 'a JSON array such as ["one", "two"]')
    return [part for part in value.replace(",", " ").split() if part]


def pairs(value: Any) -> Any:
    """Terms by tenant that may be given as a JSON object, or as ``name=weight`` with commas between."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return _json(value, dict, 'a JSON object such as {"acme": {"weight": 2}}')
    found = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, weight = part.rpartition("=")
        if not equals or not name.strip():
            raise ValueError('write a JSON object such as {"acme": {"weight": 2, "cap": 8}}, or acme=2,beta=1')
        found[name.strip()] = {"weight": weight.strip()}
    return found


def blank(value: Any) -> Any:
    """An empty text is no value."""
    return None if isinstance(value, str) and not value.strip() else value


def absolute(path: Path) -> Path:
    """A path of the user's, from the root on."""
    if path.parts[:1] == ("~",) and not os.environ.get("HOME"):
        # Python would ask the system's list of users, where a container's user may not stand, or take the root folder.
        try:
            import pwd

            return Path(pwd.getpwuid(os.getuid()).pw_dir, *path.parts[1:]).absolute()
        except (ImportError, KeyError):
            raise ValueError("there is no home folder: HOME is not set. Set PENSTOCK_HOME, or pass --home") from None
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"there is no user {path.parts[0]}") from None


def _json(text: str, kind: type[Any], what: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ValueError(f"this is not {what}")
    return value


# Kinds ------------------------------------------------------------------------------------------------------------


def is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a setting is a section."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def each_of(annotation: Any) -> type[BaseModel] | None:
    """The section that there is one of per name: ``PoolSettings`` of ``dict[str, PoolSettings]``."""
    inner = get_args(annotation)[-1] if get_origin(annotation) is dict else None
    return inner if is_section(inner) else None


# Errors -----------------------------------------------------------------------------------------------------------


def explained(cls: type[BaseModel], error: ValidationError, overrides: Mapping[str, Any]) -> ConfigError:
    """Every wrong setting, and where it was written."""
    found = [(tuple(map(str, e["loc"])), e["type"], _message(e)) for e in error.errors()]
    places = {_place(loc, overrides) for loc, _, _ in found}
    return ConfigError(
        f"wrong settings: {'; '.join(_fault(cls, *each) for each in found)}",
        fix=f"correct {', '.join(sorted(places))}",
    )


def _message(error: Mapping[str, Any]) -> str:
    """What is wrong with a value; of one that is none of a few words, which there are, and the nearest."""
    message: str = error["msg"].removeprefix("Value error, ")
    words = re.fullmatch(r"\^\(([\w|]+)\)\$", str((error.get("ctx") or {}).get("pattern", "")))
    if words is None:
        return message
    known = words.group(1).split("|")
    near = get_close_matches(str(error["input"])[:150], known, n=1)
    there = f"{', '.join(known[:-1])} or {known[-1]}"
    return f"{error['input']!r:.80} is not {there}" + (f", did you mean {near[0]}?" if near else "")


def _fault(cls: type[BaseModel], loc: tuple[str, ...], kind: str, message: str) -> str:
    """What is wrong with one setting; for a name that there is not, the nearest one."""
    name = ".".join(loc)
    if kind != "extra_forbidden":
        return f"{name}: {message}"
    holder: Any = cls
    for part in loc[:-1]:
        if each := each_of(holder):  # a section per name, as `pools` has: `part` is one of these names
            holder = each
        else:
            holder = holder.model_fields[part].annotation if part in holder.model_fields else None
        if not (is_section(holder) or each_of(holder)):
            return f"there is no setting {name}"
    near = get_close_matches(loc[-1], holder.model_fields, n=1)
    return f"there is no setting {name}" + (f", did you mean {'.'.join((*loc[:-1], near[0]))}?" if near else "")


def _place(loc: tuple[str, ...], overrides: Mapping[str, Any]) -> str:
    """Where a setting was written: what a person opens to correct it."""
    passed: Any = overrides
    for part in loc:
        passed = passed.get(part) if isinstance(passed, Mapping) else passed
    if passed is not None:
        return f"{'.'.join(loc)} as it was passed (a flag, --set, or a keyword argument)"
    # A variable holds one value, or a whole section as JSON.
    names = {PREFIX + "__".join(loc[:depth]).upper() for depth in range(1, len(loc) + 1)}
    below = PREFIX + "__".join(loc).upper() + "__"
    for variable in os.environ:
        if variable.upper() in names or variable.upper().startswith(below):
            return f"the variable {variable}"
    for file in secret_files():
        if file.name.upper() in names or file.name.upper().startswith(below):
            return f"the file {file}"
    if loc == ("home",) and not config_file().is_file():
        return "PENSTOCK_HOME"
    return f"the file {config_file()}"


def reject_unknown(cls: type[BaseModel]) -> None:
    """Raise ``ConfigError`` for a variable or secret file that sets nothing: a typo must not pass silently."""
    known = {name.upper() for name in cls.model_fields}
    written = [(name, f"unset {name}") for name in os.environ if name.startswith(PREFIX)]
    written += [(file.name.upper(), f"remove the file {file}") for file in secret_files()]
    for name, removal in written:
        if name in _META:
            continue
        rest = name.removeprefix(PREFIX).upper()
        if rest.split("__", 1)[0] in known:
            continue
        near = get_close_matches(rest, [*_variables(cls)], n=1) or get_close_matches(rest.split("__")[0], known, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"{removal}: penstock has no such setting"
        raise ConfigError(f"unknown setting {name}", fix=hint)


def _variables(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The names of all variables, without the common prefix."""
    for name, field in cls.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _variables(inner, f"{prefix}{name.upper()}__")
        yield f"{prefix}{name.upper()}"
