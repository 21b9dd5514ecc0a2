"""What the Messages API refuses, as code of its own: nothing of the product is used here.

`check(body)` returns the message of the 400 the API would answer, or None. Shapes are checked
against the official SDK's parameter types (unknown keys refused), then the rules of wire notes 5.3
and 5.5, model by model.
"""

from __future__ import annotations

import hashlib
import re
import sys
import typing
from dataclasses import dataclass
from typing import Any

import anthropic.types
import typing_extensions
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

assert anthropic.types


def _forbid_unknown_keys() -> None:
    for name, module in list(sys.modules.items()):
        if not name.startswith("anthropic.types") or ".beta" in name:
            continue
        for item in vars(module).values():
            typed = typing_extensions.is_typeddict(item) or typing.is_typeddict(item)
            if typed and "__pydantic_config__" not in vars(item):
                item.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


_forbid_unknown_keys()
_SHAPES = {
    False: TypeAdapter(MessageCreateParamsNonStreaming),
    True: TypeAdapter(MessageCreateParamsStreaming),
}


_OF_OLDER_VERSION = ("temperature", "top_p", "top_k")
"""In 2023-06-01 only, so the SDK's types (2026-10-21) have them no more."""


def _exhaust(value: Any) -> None:
    """Pydantic checks iterables lazily; response models must not stand in for parameters."""
    if isinstance(value, BaseModel):
        raise TypeError(f"{type(value).__name__}: unknown keys")
    if isinstance(value, dict):
        for inner in value.values():
            _exhaust(inner)
    elif hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        for inner in value:
            _exhaust(inner)


@dataclass(frozen=True)
class Limits:
    max_tokens: int = 128_000
    sampling: bool = False
    thinking: tuple[str, ...] = ("adaptive",)
    default_on: bool = True
    efforts: tuple[str, ...] = ("low", "medium", "high", "xhigh", "max")
    forced: str = "ok"
    prefill: bool = False


_ROWS = (
    (r"claude-(opus-5-5|fable-5-[12]|mythos-5-[12])$", Limits(forced="never")),
    (r"claude-sonnet-5-5$", Limits(thinking=("adaptive", "between_tools"), forced="never")),
    (r"claude-haiku-5-5$", Limits(thinking=("adaptive", "disabled"))),
    (r"claude-fable-5$", Limits()),
    (r"claude-(sonnet|opus)-5$", Limits(thinking=("adaptive", "disabled"))),
    (r"claude-opus-4-[78]$", Limits(default_on=False, thinking=("adaptive", "disabled"))),
    (
        r"claude-(sonnet|opus)-4-6$",
        Limits(
            default_on=False,
            sampling=True,
            thinking=("adaptive", "enabled", "disabled"),
            efforts=("low", "medium", "high", "max"),
            forced="unless thinking",
        ),
    ),
    (
        r"claude-(haiku|sonnet|opus)-4-5",
        Limits(
            max_tokens=64_000,
            default_on=False,
            sampling=True,
            thinking=("enabled", "disabled"),
            efforts=(),
            forced="unless thinking",
            prefill=True,
        ),
    ),
)


def limits_of(model: str) -> Limits | None:
    return next((limits for pattern, limits in _ROWS if re.match(pattern, model)), None)


class Refusal(Exception):
    pass


def need(condition: Any, message: str) -> None:
    if not condition:
        raise Refusal(message)


def check(body: Any) -> str | None:
    """The message of the API's 400, or None."""
    try:
        need(isinstance(body, dict), "body must be an object")
        shape = {key: value for key, value in body.items() if key not in _OF_OLDER_VERSION}
        _exhaust(_SHAPES[body.get("stream") is True].validate_python(shape))
        _check(body)
    except Refusal as refusal:
        return str(refusal)
    except (ValidationError, TypeError) as error:
        return f"shape: {error}"[:1500]
    return None


def thinks(body: dict[str, Any]) -> bool:
    limits = limits_of(body["model"]) or Limits()
    kind = body.get("thinking", {}).get("type")
    return limits.default_on if kind is None else kind != "disabled"


def sign(model: str, thinking: str) -> str:
    return "sig-" + hashlib.sha256(f"{model}\0{thinking}".encode()).hexdigest()[:24]


def _check(body: dict[str, Any]) -> None:
    limits = limits_of(body["model"])
    need(limits is not None, "model not found")
    assert limits is not None
    need(1 <= body["max_tokens"] <= limits.max_tokens, "max_tokens: out of range")
    if not limits.sampling:
        for name in ("temperature", "top_p", "top_k"):
            need(name not in body, f"{name}: not supported by this model")
    _check_thinking(body, limits)
    _check_tools(body, limits)
    for stop in body.get("stop_sequences", ()):
        need(stop.strip(), "stop_sequences: each stop sequence must contain non-whitespace")
    user = body.get("metadata", {}).get("user_id")
    need(user is None or "@" not in user, "metadata.user_id: no e-mail")
    schema = (body.get("output_config", {}).get("format") or {}).get("schema")
    if schema is not None:
        check_schema(schema)
    _check_messages(body, limits)
    _check_marks(body)


def _check_thinking(body: dict[str, Any], limits: Limits) -> None:
    thinking = body.get("thinking")
    effort = body.get("output_config", {}).get("effort")
    if effort is not None:
        need(effort in limits.efforts, f"output_config.effort: {effort} not supported")
    if thinking is not None:
        kind = thinking["type"]
        need(kind in limits.thinking, f"thinking.type: {kind} not supported by this model")
        if kind in ("disabled", "between_tools"):
            need(effort not in ("xhigh", "max"), "effort too high without thinking")
        if kind == "enabled":
            budget = thinking["budget_tokens"]
            need(1024 <= budget < body["max_tokens"], "thinking.budget_tokens: out of range")
    sampling = [name for name in ("temperature", "top_p") if name in body]
    if sampling:
        need(not thinks(body), "temperature may not be set when thinking is enabled")
        need(len(sampling) == 1, "temperature and top_p cannot both be specified")
        need(0 <= body.get("temperature", 0) <= 1, "temperature: range: 0..1")


def _optional(schema: Any) -> int:
    if isinstance(schema, list):
        return sum(map(_optional, schema))
    if not isinstance(schema, dict):
        return 0
    own = len(schema.get("properties", {})) - len(schema.get("required", ()))
    return max(own, 0) + sum(map(_optional, schema.values()))


def _check_tools(body: dict[str, Any], limits: Limits) -> None:
    tools = body.get("tools", [])
    names = [tool["name"] for tool in tools]
    need(len(set(names)) == len(names), "tools: Tool names must be unique.")
    strict = [tool for tool in tools if tool.get("strict")]
    need(len(strict) <= 20, "too many strict tools")
    schemas = [tool["input_schema"] for tool in strict]
    schemas += [(body.get("output_config", {}).get("format") or {}).get("schema", {})]
    need(sum(map(_optional, schemas)) <= 24, "too many optional parameters")
    for tool in tools:
        need(re.fullmatch(r"[A-Za-z0-9_-]{1,128}", tool["name"]), "tools.name: pattern")
        schema = tool["input_schema"]
        need(schema.get("type") == "object", "tools.input_schema.type: must be object")
        for word in ("anyOf", "oneOf", "allOf"):
            need(word not in schema, f"input_schema does not support {word} at the top level")
        if tool.get("strict"):
            check_schema(schema)
    choice = body.get("tool_choice")
    if choice is None:
        return
    need(tools, "tool_choice: tools must be provided")
    if choice["type"] in ("any", "tool"):
        need(limits.forced != "never", "tool_choice forces tool use: not supported")
        need(
            limits.forced == "ok" or not thinks(body),
            "Thinking may not be enabled when tool_choice forces tool use.",
        )
    if choice["type"] == "tool":
        need(choice["name"] in names, "tool_choice.name: not in tools")


_REFUSED = frozenset(
    [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "uniqueItems",
        "contains",
        "prefixItems",
        "minProperties",
        "maxProperties",
        "patternProperties",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "if",
        "then",
        "else",
        "not",
        "oneOf",
    ]
)


def check_schema(schema: Any, root: Any = None, path: tuple[str, ...] = ()) -> None:
    root = schema if root is None else root
    need(isinstance(schema, dict), "schema: must be an object")
    for word in _REFUSED:
        need(word not in schema, f"schema: {word} is not supported")
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema:
        need(schema.get("additionalProperties") is False, "schema: additionalProperties: false")
    if "$ref" in schema:
        ref = schema["$ref"]
        need(ref.startswith("#/"), "schema: external $ref")
        need(ref not in path, "schema: recursive $ref")
        target = root
        for piece in ref[2:].split("/"):
            need(isinstance(target, dict) and piece in target, "schema: dangling $ref")
            target = target[piece]
        check_schema(target, root, (*path, ref))
    for word in ("properties", "$defs", "definitions"):
        for inner in schema.get(word, {}).values():
            check_schema(inner, root, path)
    if "items" in schema:
        check_schema(schema["items"], root, path)
    for word in ("anyOf", "allOf"):
        for inner in schema.get(word, ()):
            check_schema(inner, root, path)


def _check_messages(body: dict[str, Any], limits: Limits) -> None:
    messages = body["messages"]
    need(messages, "messages: at least one message is required")
    need(messages[0]["role"] == "user", "messages: first message must use the user role")
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        need(blocks, "messages: content must not be empty")
        if turns and turns[-1][0] == message["role"]:
            turns[-1][1].extend(blocks)
        else:
            turns.append((message["role"], blocks))
    _check_pairs(turns)
    for role, blocks in turns:
        for block in blocks:
            _check_block(role, block)
    _check_thoughts(body, turns)
    uses = any(b["type"] in ("tool_use", "tool_result") for _, blocks in turns for b in blocks)
    need(not uses or body.get("tools"), "Requests which include tool_use must define tools")
    if turns[-1][0] == "assistant":
        need(limits.prefill, "This model does not support assistant message prefill")
        need(not thinks(body), "prefill: not with thinking")
        last = turns[-1][1][-1]
        need(
            last["type"] != "text" or last["text"] == last["text"].rstrip(),
            "final assistant content cannot end with trailing whitespace",
        )


def _check_pairs(turns: list[tuple[str, list[dict[str, Any]]]]) -> None:
    seen: set[str] = set()
    open_ids: list[str] = []
    for role, blocks in turns:
        kinds = [block["type"] for block in blocks]
        results = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        if role == "user":
            need(
                sorted(results) == sorted(open_ids),
                "tool_use ids were found without tool_result blocks immediately after, or the "
                f"other way round: {open_ids} {results}",
            )
            need(
                all(k == "tool_result" for k in kinds[: len(results)]),
                "tool_result blocks must come first",
            )
            open_ids = []
        else:
            need(not results, "tool_result in an assistant message")
            need(not open_ids, "tool_use without tool_result")
            open_ids = [b["id"] for b in blocks if b["type"] == "tool_use"]
            for identifier in open_ids:
                need(re.fullmatch(r"[A-Za-z0-9_-]+", identifier), "tool_use.id: pattern")
                need(identifier not in seen, "tool_use ids must be unique")
                seen.add(identifier)
    need(not open_ids, "tool_use ids were found without tool_result blocks")


def _check_block(role: str, block: dict[str, Any]) -> None:
    kind = block["type"]
    if kind == "text":
        need(block["text"].strip(), "messages: text content blocks must be non-empty")
    elif kind == "image":
        need(role == "user", "image in an assistant message")
        _check_image(block["source"])
    elif kind == "document":
        need(role == "user", "document in an assistant message")
    elif kind == "tool_use":
        need(re.fullmatch(r"[A-Za-z0-9_-]{1,128}", block["name"]), "tool_use.name: pattern")
    elif kind == "tool_result" and not isinstance(block.get("content", ""), str):
        for inner in block["content"]:
            _check_block("user", inner)
    need(
        kind not in ("thinking", "redacted_thinking") or "cache_control" not in block,
        "cache_control on thinking",
    )


def _check_image(source: dict[str, Any]) -> None:
    if source["type"] == "base64":
        need(
            source["media_type"] in ("image/jpeg", "image/png", "image/gif", "image/webp"),
            "image: media_type",
        )
    elif source["type"] == "url":
        need(re.match(r"https?://", source["url"]), "image: only http(s) URLs")


def _check_thoughts(body: dict[str, Any], turns: list[tuple[str, list[dict[str, Any]]]]) -> None:
    for _, blocks in turns:
        for block in blocks:
            if block["type"] == "thinking":
                good = sign(body["model"], block["thinking"])
                need(block["signature"] == good, "Invalid `signature` in `thinking` block")
    if body.get("thinking", {}).get("type") != "enabled":
        return
    calling = [b for role, b in turns if role == "assistant" and _calls(b)]
    if calling:
        need(
            calling[-1][0]["type"] in ("thinking", "redacted_thinking"),
            "Expected `thinking` or `redacted_thinking`, but found `tool_use`",
        )


def _calls(blocks: list[dict[str, Any]]) -> bool:
    return any(block["type"] == "tool_use" for block in blocks)


def _check_marks(body: dict[str, Any]) -> None:
    system = body.get("system", "")
    blocks = list(body.get("tools", ())) + ([] if isinstance(system, str) else list(system))
    for block in [] if isinstance(system, str) else system:
        need(block["text"].strip(), "system: text content blocks must be non-empty")
    for message in body["messages"]:
        if not isinstance(message["content"], str):
            blocks += message["content"]
    marks = [block["cache_control"] for block in blocks if block.get("cache_control")]
    need(len(marks) + ("cache_control" in body) <= 4, "A maximum of 4 blocks with cache_control")
    ttls = [mark.get("ttl", "5m") for mark in marks]
    need(ttls == sorted(ttls), "a ttl='1h' block must not come after a ttl='5m' block")
