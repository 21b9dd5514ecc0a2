"""A client's chat body in typed pieces, for the translators: `parse_chat`.

Shapes: OpenAI chat completions as of openai-python 3.54 (types under ``openai.types.chat``). What
neither translated provider can do is refused here with the field's name; nothing here knows a
provider.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from sellapi.upstream.adapter import Job
from sellapi.upstream.openai_legacy import LegacyCalls
from sellapi.upstream.openai_parts import (
    JsonObject,
    Part,
    TextPart,
    exact_loads,
    parse_parts,
    refuse,
)

__all__ = [
    "EFFORTS",
    "Chat",
    "Message",
    "ResponseFormat",
    "Role",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "asks_for_functions",
    "field_value",
    "parse_chat",
]

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made; ``input`` is the parsed arguments object ("" is ``{}``)."""

    id: str
    name: str
    input: JsonObject
    raw: JsonObject
    """The call as the client sent it (``extra_content`` …)."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message; ``developer`` is told as ``system``, ``function`` as ``tool``.

    ``raw`` is the message as the client sent it, for extra fields that came back to us.
    ``param`` names it in errors: ``messages[3]``.
    """

    role: Role
    parts: tuple[Part, ...]
    param: str
    raw: JsonObject
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str | None = None
    cache_control: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function tool; ``parameters`` is None when the function takes none."""

    name: str
    description: str | None
    parameters: JsonObject | None
    strict: bool | None
    param: str
    cache_control: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``name`` is set for ``named`` only. allowed_tools was already applied to `Chat.tools`."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """``schema`` is set for ``json_schema`` when the client gave one."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    description: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


@dataclass(slots=True)
class Chat:
    """A chat request in typed pieces; None and empty mean the client said nothing."""

    messages: list[Message]
    tools: list[Tool]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    stop: tuple[str, ...]
    temperature: float | None
    top_p: float | None
    reasoning_effort: str | None
    response_format: ResponseFormat
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logprobs: bool
    top_logprobs: int | None
    service_tier: str | None
    cache_control: JsonObject | None = None


def field_value(job: Job, name: str) -> Any:
    """A field of the client's body, decoded; None when absent or null. Raises `InvalidRequest`."""
    raw = job.fields.get(name)
    if raw is None:
        return None
    try:
        return orjson.loads(memoryview(raw))
    except ValueError as error:
        # The only way here is text that is JSON in form but not in content: a lone surrogate.
        raise refuse(f"{name!r} is not valid JSON: {error}.", name) from error


def _typed(job: Job, name: str, kinds: tuple[type, ...], what: str) -> Any:
    value = field_value(job, name)
    if value is None:
        return None
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise refuse(f"{name!r} must be {what}.", name)
    return value


def _number(job: Job, name: str, low: float, high: float) -> float | None:
    value = _typed(job, name, (int, float), "a number")
    if value is not None and not low <= value <= high:
        raise refuse(f"{name!r} must be between {low:g} and {high:g}.", name)
    return value  # type: ignore[no-any-return]


def parse_chat(job: Job) -> Chat:
    """Everything a translator needs of a chat body; raises `InvalidRequest` naming the field.

    Refused here because neither translated provider can do it: audio output, web search,
    moderation, custom tools, ``file_id``. Ignored: logit_bias, prediction, store, verbosity, metadata, user
    identifiers, unknown keys.
    """
    _refuse_impossible(job)
    tools = _tools(job)
    choice, allowed = _tool_choice(job)
    if allowed is not None:
        tools = [tool for tool in tools if tool.name in allowed]
        if not tools and choice is not None and choice.mode != "none":
            choice = ToolChoice("none")
    if choice is not None and choice.mode == "named":
        _known_tool(choice.name, tools)
    if choice is not None and choice.mode == "required" and not tools:
        raise refuse("'tool_choice' is 'required' but there are no 'tools' to call.", "tool_choice")
    cache_control = field_value(job, "cache_control")
    return Chat(
        messages=_messages(job),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=False if asks_for_functions(job) else _parallel(job),
        stop=_stop(job),
        temperature=_number(job, "temperature", 0, 2),
        top_p=_number(job, "top_p", 0, 1),
        reasoning_effort=_effort(job),
        response_format=_response_format(job),
        seed=_typed(job, "seed", (int,), "an integer"),
        presence_penalty=_number(job, "presence_penalty", -2, 2),
        frequency_penalty=_number(job, "frequency_penalty", -2, 2),
        logprobs=bool(_typed(job, "logprobs", (bool,), "true or false")),
        top_logprobs=_typed(job, "top_logprobs", (int,), "an integer"),
        service_tier=_typed(job, "service_tier", (str,), "a string"),
        cache_control=cache_control if isinstance(cache_control, dict) else None,
    )


def asks_for_functions(job: Job) -> bool:
    """Whether the client uses the deprecated ``functions``: one call an answer, told the old way."""
    return field_value(job, "functions") is not None and field_value(job, "tools") is None


def _parallel(job: Job) -> bool | None:
    return _typed(job, "parallel_tool_calls", (bool,), "true or false")  # type: ignore[no-any-return]


def _refuse_impossible(job: Job) -> None:
    modalities = field_value(job, "modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        raise refuse("This model cannot answer with audio: ask for text only.", "modalities")
    if field_value(job, "audio") is not None:
        raise refuse("This model cannot answer with audio: leave 'audio' out.", "audio")
    if field_value(job, "moderation") is not None:
        raise refuse(
            "This model's answers are not moderated by the provider: leave 'moderation' out.",
            "moderation",
        )
    if field_value(job, "web_search_options") is not None:
        raise refuse(
            "This model cannot search the web: leave 'web_search_options' out.",
            "web_search_options",
        )


EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""reasoning_effort, from least to most."""


def _effort(job: Job) -> str | None:
    effort = field_value(job, "reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        raise refuse(f"'reasoning_effort' must be one of {', '.join(EFFORTS)}.", "reasoning_effort")
    return effort  # type: ignore[no-any-return]


def _stop(job: Job) -> tuple[str, ...]:
    stop = field_value(job, "stop")
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    if isinstance(stop, list) and all(isinstance(item, str) for item in stop):
        if len(stop) > 4:
            raise refuse("'stop' takes at most 4 sequences.", "stop")
        return tuple(stop)
    raise refuse("'stop' must be a string or a list of strings.", "stop")


def _response_format(job: Job) -> ResponseFormat:
    value = _typed(job, "response_format", (dict,), "an object")
    if value is None:
        return ResponseFormat("text")
    kind = value.get("type")
    if kind in ("text", "json_object"):
        return ResponseFormat(kind)
    if kind != "json_schema":
        raise refuse(
            "'response_format.type' must be text, json_object or json_schema.",
            "response_format.type",
        )
    inner = value.get("json_schema")
    if not isinstance(inner, dict):
        raise refuse("'json_schema' must be an object.", "response_format.json_schema")
    schema = inner.get("schema")
    if schema is not None and not isinstance(schema, dict):
        raise refuse("'schema' must be an object.", "response_format.json_schema.schema")
    return ResponseFormat(
        "json_schema",
        name=str(inner.get("name") or ""),
        description=inner.get("description"),
        schema=schema,
        strict=inner.get("strict"),
    )


# Tools


_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


def _tools(job: Job) -> list[Tool]:
    items = _typed(job, "tools", (list,), "a list")
    if items is not None:
        return [_tool(item, f"tools[{index}]") for index, item in enumerate(items)]
    functions = _typed(job, "functions", (list,), "a list")
    return [_function(f, f"functions[{i}]", {}) for i, f in enumerate(functions or ())]


def _tool(item: Any, param: str) -> Tool:
    if not isinstance(item, dict):
        raise refuse("A tool must be an object.", param)
    kind = item.get("type", "function")
    if kind != "function":
        raise refuse(
            f"This model takes tools of type 'function' only, not {kind!r}.", f"{param}.type"
        )
    return _function(item.get("function"), f"{param}.function", item)


def _function(function: Any, param: str, outer: JsonObject) -> Tool:
    if not isinstance(function, dict):
        raise refuse("A tool's 'function' must be an object.", param)
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise refuse(
            "A function's name must be 1 to 128 characters of A-Z, a-z, 0-9, _ and -.",
            f"{param}.name",
        )
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise refuse("A function's 'parameters' must be a JSON Schema.", f"{param}.parameters")
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise refuse("A function's 'description' must be a string.", f"{param}.description")
    cache = outer.get("cache_control") or function.get("cache_control")
    strict = function.get("strict")
    return Tool(
        name=name,
        description=description,
        parameters=parameters,
        strict=strict if isinstance(strict, bool) else None,
        param=param,
        cache_control=cache if isinstance(cache, dict) else None,
    )


def _known_tool(name: str, tools: list[Tool]) -> None:
    if all(tool.name != name for tool in tools):
        raise refuse(f"'tool_choice' names {name!r}, which is not in 'tools'.", "tool_choice")


def _tool_choice(job: Job) -> tuple[ToolChoice | None, frozenset[str] | None]:
    """The choice, and the names tools are to be filtered by (allowed_tools)."""
    value = field_value(job, "tool_choice")
    if value is None:
        return _function_call(job), None
    if value in ("none", "auto", "required"):
        return ToolChoice(value), None
    if isinstance(value, dict):
        kind = value.get("type")
        if kind == "function" and (name := _inner_name(value)):
            return ToolChoice("named", name), None
        if kind == "allowed_tools":
            return _allowed_tools(value)
    raise refuse(
        "'tool_choice' must be none, auto, required, a function or allowed_tools.", "tool_choice"
    )


def _inner_name(value: JsonObject) -> str:
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _allowed_tools(value: JsonObject) -> tuple[ToolChoice, frozenset[str]]:
    inner = value.get("allowed_tools")
    mode = inner.get("mode") if isinstance(inner, dict) else None
    tools = inner.get("tools") if isinstance(inner, dict) else None
    if mode not in ("auto", "required") or not isinstance(tools, list):
        raise refuse(
            "'allowed_tools' needs a 'mode' (auto or required) and a list of 'tools'.",
            "tool_choice.allowed_tools",
        )
    names = frozenset(_inner_name(tool) for tool in tools if isinstance(tool, dict))
    return ToolChoice(mode), names


def _function_call(job: Job) -> ToolChoice | None:
    """The deprecated ``function_call``."""
    value = field_value(job, "function_call")
    if value is None:
        return None
    if value in ("none", "auto"):
        return ToolChoice(value)
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return ToolChoice("named", value["name"])
    raise refuse("'function_call' must be none, auto or {name}.", "function_call")


# Messages


def _messages(job: Job) -> list[Message]:
    items = field_value(job, "messages")
    if not isinstance(items, list) or not items:
        raise refuse("'messages' must be a list with at least one message.", "messages")
    found: list[Message] = []
    legacy = LegacyCalls()
    for index, item in enumerate(items):
        param = f"messages[{index}]"
        if not isinstance(item, dict):
            raise refuse("A message must be an object.", param)
        found.append(_message(item, param, legacy))
    return found


def _message(item: JsonObject, param: str, legacy: LegacyCalls) -> Message:
    role = item.get("role")
    name = item.get("name")
    name = name if isinstance(name, str) else None
    cache = item.get("cache_control")
    cache = cache if isinstance(cache, dict) else None
    content = item.get("content")
    if role in ("system", "developer"):
        parts = parse_parts(content, param)
        return Message("system", parts, param, item, name=name, cache_control=cache)
    if role == "user":
        parts = parse_parts(content, param)
        return Message("user", parts, param, item, name=name, cache_control=cache)
    if role == "assistant":
        parts = parse_parts(content, param)
        if not parts and isinstance(item.get("refusal"), str) and item["refusal"]:
            parts = (TextPart(item["refusal"]),)
        calls = _tool_calls(item, param, legacy)
        return Message(
            "assistant", parts, param, item, tool_calls=calls, name=name, cache_control=cache
        )
    if role in ("tool", "function"):
        identifier = legacy.answer(name) if role == "function" else item.get("tool_call_id")
        if not isinstance(identifier, str) or not identifier:
            raise refuse("A tool message needs its 'tool_call_id'.", f"{param}.tool_call_id")
        return Message(
            "tool",
            parse_parts(content, param),
            param,
            item,
            tool_call_id=identifier,
            name=name,
            cache_control=cache,
        )
    raise refuse(
        "A message's 'role' must be system, developer, user, assistant or tool.", f"{param}.role"
    )


def _tool_calls(item: JsonObject, param: str, legacy: LegacyCalls) -> tuple[ToolCall, ...]:
    calls = item.get("tool_calls")
    if calls is None:
        old = item.get("function_call")
        if old is None:
            return ()
        old_name = old.get("name") if isinstance(old, dict) else None
        if not isinstance(old_name, str) or not old_name:
            raise refuse("A 'function_call' needs a 'name'.", f"{param}.function_call")
        arguments = _arguments(old.get("arguments"), f"{param}.function_call.arguments")
        return (ToolCall(legacy.call(old_name), old_name, arguments, old),)
    if not isinstance(calls, list):
        raise refuse("'tool_calls' must be a list.", f"{param}.tool_calls")
    return tuple(_call(call, f"{param}.tool_calls[{i}]") for i, call in enumerate(calls))


def _call(call: Any, param: str) -> ToolCall:
    if not isinstance(call, dict):
        raise refuse("A tool call must be an object.", param)
    if call.get("type", "function") not in ("function", None):
        raise refuse("This model takes tool calls of type 'function' only.", f"{param}.type")
    function = call.get("function")
    if not isinstance(function, dict):
        raise refuse("A tool call's 'function' must be an object.", f"{param}.function")
    identifier, name = call.get("id"), function.get("name")
    if not isinstance(identifier, str) or not identifier:
        raise refuse("A tool call needs its 'id'.", f"{param}.id")
    if not isinstance(name, str) or not name:
        raise refuse("A tool call needs its function's 'name'.", f"{param}.function.name")
    arguments = _arguments(function.get("arguments"), f"{param}.function.arguments")
    return ToolCall(identifier, name, arguments, call)


def _arguments(text: Any, param: str) -> JsonObject:
    """The arguments object; "" and null are ``{}``."""
    if text is None or isinstance(text, dict):
        return text or {}
    if not isinstance(text, str):
        raise refuse("'arguments' must be a JSON string.", param)
    if not text.strip():
        return {}
    try:
        value = exact_loads(text.encode())
    except ValueError as error:
        raise refuse(f"'arguments' is not valid JSON: {error}.", param) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refuse("'arguments' must hold a JSON object.", param)
    return value
