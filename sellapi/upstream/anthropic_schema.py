"""JSON Schemas as Anthropic's structured output and tools take them (wire notes 5.5).

What the API refuses moves into the description, as Anthropic's own SDK does (anthropic-python
2.12, ``lib/_parse/_transform.py``): the model may still follow it.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from sellapi.upstream.openai_parts import JsonObject

__all__ = ["count_parameters", "strict_schema", "tool_schema"]

_FORMATS = frozenset(
    "date-time time date duration email hostname uri ipv4 ipv6 uuid".split()  # noqa: SIM905
)
_KEPT = ("type", "title", "const", "default")
_TELLING = frozenset(("type", "enum", "const", "anyOf"))
"""Keywords one of which every schema must have."""
_UNSUPPORTED_REGEX = re.compile(r"\(\?(?!:)|\\[bB1-9]")
_DROPPED_QUIETLY = frozenset({"$schema", "$id", "$comment", "additionalProperties"})
_MAX_DEPTH = 64


class _Impossible(Exception):
    """The schema says something structured output has no word for."""


def strict_schema(schema: JsonObject) -> JsonObject | None:
    """The schema for ``output_config.format`` or a strict tool; None when it cannot be said.

    Every object gets ``additionalProperties: false``, ``oneOf`` becomes ``anyOf``, refused keywords
    become part of the description. Recursive or external references and what is left open (maps,
    schemas that take anything) are what cannot be said.
    """
    try:
        if _recursive(schema):
            return None
        return _strict(schema, 0)
    except _Impossible:
        return None


def _strict(schema: Any, depth: int) -> JsonObject:
    if schema is True or depth > _MAX_DEPTH:
        raise _Impossible
    if not isinstance(schema, dict):
        raise _Impossible
    result: JsonObject = {}
    for name in ("$defs", "definitions"):
        if isinstance(inner := schema.get(name), dict):
            result[name] = {key: _strict(value, depth + 1) for key, value in inner.items()}
    if "$ref" in schema:
        return {**result, "$ref": schema["$ref"]}
    if isinstance(every := schema.get("allOf"), list):
        return result | _strict(_only(every, schema), depth + 1)
    rest: JsonObject = {}
    for key, value in schema.items():
        if key in _KEPT:
            result[key] = value
        elif not _translate(key, value, result, depth):
            rest[key] = value
    if _is_object(schema):
        _close(schema, result)
    if not result.keys() & _TELLING:
        raise _Impossible  # anything goes: the API wants a type
    _describe(schema.get("description"), rest, result)
    return result


def _only(every: list[Any], schema: JsonObject) -> Any:
    """The one schema of an ``allOf``: closed, several would forbid each other's properties."""
    if len(every) != 1 or "properties" in schema or "anyOf" in schema or "oneOf" in schema:
        raise _Impossible
    return every[0]


def _translate(key: str, value: Any, result: JsonObject, depth: int) -> bool:
    """Write one keyword into the result; False when the API refuses it."""
    if key in {"$defs", "definitions", "description"} or key in _DROPPED_QUIETLY:
        return True
    if key == "properties" and isinstance(value, dict):
        result["properties"] = {name: _strict(inner, depth + 1) for name, inner in value.items()}
    elif key == "items" and isinstance(value, dict):
        result["items"] = _strict(value, depth + 1)
    elif key in {"anyOf", "oneOf"} and isinstance(value, list):
        variants = [_strict(inner, depth + 1) for inner in value]
        result["anyOf"] = [*result.get("anyOf", ()), *variants]
    elif key == "required" and isinstance(value, list):
        result["required"] = _names(value)
    elif key == "enum" and isinstance(value, list) and value and all(map(_primitive, value)):
        result["enum"] = value
    elif key == "format":
        if not isinstance(value, str) or value not in _FORMATS:
            return False
        result["format"] = value
    elif key == "pattern" and isinstance(value, str):
        if _UNSUPPORTED_REGEX.search(value):
            return False
        result["pattern"] = value
    else:
        return False
    return True


def _names(value: Any) -> list[str]:
    """The names in a ``required``; schemas come from strangers."""
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _properties(schema: JsonObject) -> JsonObject:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _primitive(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _is_object(schema: JsonObject) -> bool:
    kind = schema.get("type")
    return (
        kind == "object"
        or (isinstance(kind, list) and "object" in kind)
        or (kind is None and "properties" in schema)
    )


def _close(schema: JsonObject, result: JsonObject) -> None:
    extra = schema.get("additionalProperties", "properties" not in schema)
    if extra is not False and not schema.get("properties"):
        raise _Impossible  # a map: closing it would only ever allow {}
    if "type" not in result:
        result["type"] = "object"
    result.setdefault("properties", {})
    result["additionalProperties"] = False
    if isinstance(result.get("required"), list):
        names = result["properties"]
        result["required"] = [name for name in result["required"] if name in names]


def _describe(description: Any, rest: JsonObject, result: JsonObject) -> None:
    words = [description] if isinstance(description, str) and description else []
    if rest:
        told = ", ".join(f"{key}: {_told(value)}" for key, value in rest.items())
        words.append("{" + told + "}")
    if words:
        result["description"] = "\n\n".join(words)


def _told(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _recursive(schema: JsonObject) -> bool:
    """Whether a reference leads back to itself, or outside; raises `_Impossible` when too deep."""
    return _visit(schema, schema, (), set(), 0)


def _visit(node: Any, root: JsonObject, path: tuple[str, ...], done: set[str], depth: int) -> bool:
    """``done``: references known to be harmless; each is followed once, however often it stands."""
    if depth > _MAX_DEPTH:
        raise _Impossible
    if isinstance(node, list):
        return any(_visit(item, root, path, done, depth + 1) for item in node)
    if not isinstance(node, dict):
        return False
    ref = node.get("$ref")
    if isinstance(ref, str) and ref not in done:
        target = _resolve(root, ref)
        if ref in path or target is None:
            return True
        if _visit(target, root, (*path, ref), done, depth + 1):
            return True
        done.add(ref)
    for key, value in node.items():
        if key in {"const", "default", "enum", "examples", "$ref"}:
            continue
        named = key in {"properties", "$defs", "definitions"} and isinstance(value, dict)
        inner = list(value.values()) if named else value
        if _visit(inner, root, path, done, depth + 1):
            return True
    return False


def _resolve(root: JsonObject, ref: str) -> JsonObject | None:
    """What a local reference names; None when it leads outside or nowhere, or to the root."""
    if not ref.startswith("#/"):
        return None
    node: Any = root
    for piece in ref[2:].split("/"):
        name = piece.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or name not in node:
            return None
        node = node[name]
    return node if isinstance(node, dict) else None


def tool_schema(parameters: JsonObject | None) -> JsonObject | None:
    """``input_schema`` for a function's parameters; None when they describe no object.

    The API wants ``type: object`` at the top and refuses anyOf, oneOf and allOf there: their
    branches' properties are merged, required is what all (allOf: any) of them require.
    """
    if not parameters:
        return {"type": "object", "properties": {}}
    schema = {key: value for key, value in parameters.items() if value is not None}
    seen = 0
    while isinstance(ref := schema.get("$ref"), str) and seen < _MAX_DEPTH:
        target = _resolve(parameters, ref) or {}
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        seen += 1
    for word in ("allOf", "anyOf", "oneOf"):
        branches = schema.pop(word, None)
        if isinstance(branches, list):
            _merge(schema, [_branch(parameters, b) for b in branches], every=word == "allOf")
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        return None
    schema["type"] = "object"
    schema.setdefault("properties", {})
    return schema


def _branch(root: JsonObject, branch: Any) -> JsonObject:
    if not isinstance(branch, dict):
        return {}
    ref = branch.get("$ref")
    return (_resolve(root, ref) or {}) if isinstance(ref, str) else branch


def _merge(schema: JsonObject, branches: list[JsonObject], *, every: bool) -> None:
    properties = dict(_properties(schema))
    needs = [set(_names(branch.get("required"))) for branch in branches]
    for branch in branches:
        for name, inner in _properties(branch).items():
            properties.setdefault(name, inner)
    schema["properties"] = properties
    common = set.union(*needs) if every and needs else set.intersection(*needs) if needs else set()
    required = _names(schema.get("required"))
    required += sorted(common - set(required))
    if required:
        schema["required"] = required


def count_parameters(schema: Any) -> tuple[int, int]:
    """(optional, union-typed) parameters in a schema: the API limits both over all strict tools."""
    optional = unions = 0
    if isinstance(schema, list):
        for item in schema:
            more = count_parameters(item)
            optional, unions = optional + more[0], unions + more[1]
    elif isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            optional += len(set(properties) - set(_names(schema.get("required"))))
        unions += "anyOf" in schema or isinstance(schema.get("type"), list)
        for key, value in schema.items():
            named = key in {"properties", "$defs"} and isinstance(value, dict)
            inner = list(value.values()) if named else value
            if isinstance(inner, (dict, list)) and key not in {"enum", "required", "const"}:
                more = count_parameters(inner)
                optional, unions = optional + more[0], unions + more[1]
    return optional, unions
