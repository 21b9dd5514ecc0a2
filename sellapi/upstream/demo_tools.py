"""Values for JSON schemas, picked from what the user wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

__all__ = ["arguments_for", "filled", "places_in"]

_PLACE = re.compile(r"city|place|location|town|country|destination|where", re.IGNORECASE)
_NAMES = re.compile(r"[^\W\d_a-z][\w'\u2019-]*(?:[ -][^\W\d_a-z][\w'\u2019-]*)*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NO_PLACES = frozenset(
    [
        "what",
        "what's",
        "how",
        "how's",
        "is",
        "are",
        "the",
        "a",
        "an",
        "i",
        "i'm",
        "please",
        "tell",
        "give",
        "show",
        "could",
        "can",
        "would",
        "weather",
        "celsius",
        "fahrenheit",
        "and",
        "in",
        "for",
        "tomorrow",
        "today",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "which",
        "who",
        "when",
        "where",
        "why",
        "do",
        "does",
        "use",
        "call",
        "get",
        "look",
        "find",
        "compare",
        "hi",
        "hello",
    ]
)
_DEEPEST = 8


def places_in(text: str) -> list[str]:
    """Names in a text: capitalised words that are no usual first words, each once."""
    found = [" ".join(_kept(match[0])) for match in _NAMES.finditer(text)]
    return list(dict.fromkeys(name for name in found if name))[:8]


def _kept(name: str) -> list[str]:
    words = [re.sub(r"['\u2019]s?$", "", word) for word in name.split(" ")]
    return [w for w in words if w.lower() not in _NO_PLACES and not w.lower().startswith("what")]


def arguments_for(tool: Mapping[str, Any], text: str, place: str) -> str:
    """A tool's arguments as a JSON string, ``{}`` for a tool without parameters."""
    schema = tool.get("parameters") or {}
    return orjson.dumps(filled(schema, text, place) if schema else {}).decode()


def filled(
    schema: Any, text: str, place: str = "", *, name: str = "", root: Any = None, depth: int = 0
) -> Any:
    """A value that is valid for a simple schema, drawn from ``text`` where that is possible."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return text
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        said = [v for v in schema["enum"] if isinstance(v, str) and v.lower() in text.lower()]
        return (said or schema["enum"])[0]
    if "default" in schema:
        return schema["default"]
    kind = _kind(schema)
    if kind == "object":
        properties = schema.get("properties") or {}
        wanted = schema.get("required") or list(properties)
        return {
            key: filled(
                properties.get(key, {"type": "string"}),
                text,
                place,
                name=key,
                root=root,
                depth=depth + 1,
            )
            for key in wanted
        }
    if kind == "array":
        count = max(1, int(schema.get("minItems") or 1))
        item = schema.get("items") or {"type": "string"}
        return [
            filled(item, text, place, name=name, root=root, depth=depth + 1) for _ in range(count)
        ]
    return _scalar(schema, kind, text, place or next(iter(places_in(text)), "Berlin"), name)


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    return kind or ("object" if "properties" in schema else "string")


def _scalar(schema: Mapping[str, Any], kind: str, text: str, place: str, name: str) -> Any:
    if kind in ("integer", "number"):
        said = _NUMBER.search(text)
        value: float = float(said[0]) if said else 1
        value = max(value, schema.get("minimum", value))
        value = min(value, schema.get("maximum", value))
        return int(value) if kind == "integer" or value == int(value) else value
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return (place if _PLACE.search(name) else text)[: schema.get("maxLength")]


def _resolved(schema: Mapping[str, Any], root: Any) -> Mapping[str, Any]:
    """The schema behind a local ``$ref``, or the first alternative that is not null."""
    for _ in range(_DEEPEST):
        if isinstance(schema.get("$ref"), str):
            found: Any = root
            for step in schema["$ref"].removeprefix("#/").split("/"):
                found = found.get(step) if isinstance(found, Mapping) else None
            schema = found if isinstance(found, Mapping) else {}
            continue
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        real = [o for o in options or () if isinstance(o, Mapping) and o.get("type") != "null"]
        if not real:
            break
        schema = real[0]
    return schema
