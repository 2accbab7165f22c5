"""What is certain of the JSON values that a type takes, or that a value of it is written as: PURE.

A JSON schema of few words (``type``, ``items``, ``properties``, ``anyOf`` …), made of the type's core schema of
pydantic's. Whatever else a type may do (a validator of its own, several names of one field, a date) is ``{}``: any.
Nothing that a user says of the JSON schema itself is read: it decides nothing.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from penstock import usercode

Schema = dict[str, Any]

_SIMPLE = {"none": "null", "bool": "boolean", "int": "integer", "float": "number", "str": "string"}
#: What makes a type take more than its fields tell.
_OPENINGS = ("coerce_numbers_to_str", "from_attributes", "custom_init", "validate_by_name", "populate_by_name")


def taken(hint: Any) -> Schema:
    """What a type may be given: who is given anything else refuses it."""
    return _schema(hint, given=False)


def given(hint: Any) -> Schema:
    """What results with this hint are written as. An exception in it (``float | ValueError``) is none of them."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kept = [each for each in typing.get_args(hint) if not _is_exception(each)]
        hint = typing.Union[tuple(kept)] if kept else Any  # noqa: UP007 - of a tuple
    return _schema(hint, given=True)


def _is_exception(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseException)


def _schema(hint: Any, *, given: bool) -> Schema:
    if hint is Any:
        return {}
    from pydantic import TypeAdapter

    try:
        core = TypeAdapter(hint).core_schema
        reader = _Reader(given)
        found = reader.read(core)
    except BaseException as error:  # no type of pydantic's, or the type's own code raises
        if not usercode.is_its_own(error):
            raise
        return {}
    return found | {"$defs": reader.defs} if reader.defs else found


class _Reader:
    def __init__(self, given: bool) -> None:
        self._given = given
        self.defs: dict[str, Schema] = {}
        #: pydantic's names hold addresses: every worker would announce others.
        self._names: dict[str, str] = {}

    def read(self, core: Any) -> Schema:
        if not isinstance(core, Mapping) or _opens(core):
            return {}
        kind = core.get("type")
        if kind in _SIMPLE:
            return {"type": _SIMPLE[kind]}
        made = getattr(self, f"_{str(kind).replace('-', '_')}", None)
        return {} if made is None else made(core)

    def _literal(self, core: Mapping[str, Any]) -> Schema:
        texts = list(core["expected"])
        return {"type": "string", "enum": texts} if all(type(each) is str for each in texts) else {}

    def _list(self, core: Mapping[str, Any]) -> Schema:
        return {"type": "array", "items": self.read(core.get("items_schema"))}

    def _tuple(self, core: Mapping[str, Any]) -> Schema:
        items = [self.read(each) for each in core["items_schema"]]
        if core.get("variadic_item_index") is None:
            return {"type": "array", "prefixItems": items}
        return {"type": "array", "items": items[0] if len(items) == 1 else {}}

    def _dict(self, core: Mapping[str, Any]) -> Schema:
        return {"type": "object", "additionalProperties": self.read(core.get("values_schema"))}

    def _nullable(self, core: Mapping[str, Any]) -> Schema:
        return {"anyOf": [self.read(core["schema"]), {"type": "null"}]}

    def _union(self, core: Mapping[str, Any]) -> Schema:
        choices = [each[0] if isinstance(each, tuple) else each for each in core["choices"]]
        return {"anyOf": [self.read(each) for each in choices]}

    def _default(self, core: Mapping[str, Any]) -> Schema:
        return self.read(core["schema"])

    def _function_after(self, core: Mapping[str, Any]) -> Schema:
        return {} if self._given else self.read(core["schema"])

    def _definitions(self, core: Mapping[str, Any]) -> Schema:
        for each in core["definitions"]:
            self.defs[self._name(each["ref"])] = self.read(each)
        return self.read(core["schema"])

    def _definition_ref(self, core: Mapping[str, Any]) -> Schema:
        return {"$ref": f"#/$defs/{self._name(core['schema_ref'])}"}

    def _name(self, ref: str) -> str:
        return self._names.setdefault(ref, str(len(self._names)))

    def _json_or_python(self, core: Mapping[str, Any]) -> Schema:
        """``Sequence[T]``, which is read as a list. Written, it may be a text, too."""
        return self.read(core["json_schema"]) if not self._given and core["json_schema"]["type"] == "list" else {}

    def _model(self, core: Mapping[str, Any]) -> Schema:
        inner = core["schema"]
        return self.read(inner) if core.get("root_model") else self._record(core, inner)

    def _dataclass(self, core: Mapping[str, Any]) -> Schema:
        return self._record(core, core["schema"])

    def _typed_dict(self, core: Mapping[str, Any]) -> Schema:
        return self._record(core, core)

    def _record(self, core: Mapping[str, Any], inner: Mapping[str, Any]) -> Schema:
        if _opens(inner) or inner.get("type") not in ("model-fields", "dataclass-args", "typed-dict"):
            return {}
        properties, required = {}, []
        for own, field in _fields(inner):
            name = field.get("validation_alias", own)
            if _opens(field) or not isinstance(name, str) or field.get("init") is False or field.get("init_only"):
                return {}
            properties[name] = self.read(field["schema"])
            if self._is_there(field, inner):
                required.append(name)
        config = core.get("config") or {}
        extra = inner.get("extra_behavior") or config.get("extra_fields_behavior")
        # Others are passed over when they are read, and none are written.
        rest: Any = {} if extra == "allow" else not self._given
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False if extra == "forbid" else rest,
        }

    def _is_there(self, field: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
        if inner["type"] == "typed-dict":
            return bool(field.get("required", inner.get("total", True)))
        return self._given or field["schema"].get("type") != "default"


def _opens(core: Mapping[str, Any]) -> bool:
    config = core.get("config") or {}
    return any(core.get(key) or config.get(key) for key in _OPENINGS)


def _fields(inner: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    fields = inner["fields"]
    if isinstance(fields, Mapping):
        yield from fields.items()
    else:
        for field in fields:
            yield field["name"], field
