"""The body of a Messages call for a chat request (wire notes 5.2, 5.3, 5.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from sellapi.upstream.adapter import Job
from sellapi.upstream.anthropic_messages import (
    Conversation,
    build,
    call_name,
    thoughts_by_message,
)
from sellapi.upstream.anthropic_schema import count_parameters, strict_schema, tool_schema
from sellapi.upstream.anthropic_thinking import Thoughts, ThoughtsMemory
from sellapi.upstream.openai_shape import (
    Chat,
    JsonObject,
    Message,
    ResponseFormat,
    Tool,
    ToolChoice,
    exact_dumps,
    field_value,
    parse_chat,
    refuse,
)

__all__ = ["STREAM_ABOVE", "encode_chat"]

STREAM_ABOVE = 16_384
"""max_tokens from which an answer is streamed upstream whatever the client wants (wire notes 5.3).

A long unstreamed answer outlives idle timeouts, and Anthropic's SDK refuses such calls above
21,333. Smaller ones go unstreamed: one JSON document is cheaper to translate than its events.
"""
_DEFAULT_MAX_TOKENS = 4_096
_LEAST_BUDGET = 1_024
_BUDGETS = {"low": 1_024, "medium": 2_048, "high": 4_096, "xhigh": 8_192, "max": 16_384}
_MAX_CACHE_MARKS = 4
_MAX_STRICT_TOOLS = 20
_MAX_OPTIONAL = 24
_MAX_UNIONS = 16

_JSON_OBJECT = (
    "Answer with exactly one valid JSON object and nothing else: no prose, no code fence."
)


def encode_chat(job: Job, memory: ThoughtsMemory) -> tuple[bytes, bool, bool]:
    """The body, whether it asks for a stream, whether the model may think; raises `InvalidRequest`."""
    chat = parse_chat(job)
    _refuse(job, chat)
    limit = _max_tokens(job)
    thinking = _thinking(job, chat, limit, memory)
    body: JsonObject = {"model": job.upstream_id, "max_tokens": limit}
    hints: list[str] = []
    output_format = _output_format(job, chat.response_format, hints)
    output_config = {**thinking.output_config, **output_format}
    conversation = build(
        job,
        chat.messages,
        thinking.thoughts,
        prefill=job.quirks.anthropic.prefill and not thinking.on and not output_format,
    )
    body.update(_tools(job, chat, conversation, thinking, hints))
    if "tools" in body:
        _strict_within_limits(body["tools"], output_format)
    body.update(_system(conversation.system, hints))
    body["messages"] = conversation.messages
    body.update(thinking.fields)
    if output_config:
        body["output_config"] = output_config
    body.update(_sampling(job, chat, thinking))
    if stops := [stop for stop in dict.fromkeys(chat.stop) if stop.strip()]:
        body["stop_sequences"] = stops
    if job.account_tag:
        body["metadata"] = {"user_id": job.account_tag}
    if chat.service_tier == "default":
        body["service_tier"] = "standard_only"
    if mark := _cache_mark(chat.cache_control):
        body["cache_control"] = mark
    _bound_cache_marks(body)
    stream = job.stream or limit > STREAM_ABOVE
    if stream:
        body["stream"] = True
    return exact_dumps(body), stream, thinking.on


# -------------------------------------------------------------------------- limits and refusals


def _refuse(job: Job, chat: Chat) -> None:
    if job.n != 1 or field_value(job, "n") not in (None, 1):
        raise refuse("This model gives one answer at a time: 'n' must be 1.", "n")
    if chat.logprobs:
        raise refuse("This model gives no log probabilities.", "logprobs")
    if chat.top_logprobs:
        raise refuse("This model gives no log probabilities.", "top_logprobs")
    if chat.service_tier not in (None, "auto", "default"):
        raise refuse("'service_tier' must be auto or default for this model.", "service_tier")


def _max_tokens(job: Job) -> int:
    """Required upstream: what was paid for, what the client said, at most what the model takes."""
    limits = [job.output_limit or _DEFAULT_MAX_TOKENS]
    for name in ("max_completion_tokens", "max_tokens"):
        stated = field_value(job, name)
        if stated is None:
            continue
        if type(stated) is not int or stated < 1:
            raise refuse(f"{name!r} must be a positive integer.", name)
        limits.append(stated)
        break
    if job.quirks.anthropic.max_output is not None:
        limits.append(job.quirks.anthropic.max_output)
    return min(limits)


def _sampling(job: Job, chat: Chat, thinking: _Thinking) -> JsonObject:
    """Refused by later models and beside thinking; of the two only one is taken (from 4.5 on)."""
    if not job.quirks.anthropic.sampling or thinking.on:
        return {}
    if chat.temperature is not None:
        return {"temperature": min(chat.temperature, 1)}
    return {} if chat.top_p is None else {"top_p": chat.top_p}


# ------------------------------------------------------------------------------------- thinking


@dataclass(frozen=True, slots=True)
class _Thinking:
    """What the request says about thinking, and the earlier thoughts that go back with it."""

    on: bool
    fields: JsonObject
    output_config: JsonObject
    thoughts: dict[int, Thoughts]


def _thinking(job: Job, chat: Chat, limit: int, memory: ThoughtsMemory) -> _Thinking:
    quirks = job.quirks.anthropic
    effort = "low" if chat.reasoning_effort == "minimal" else chat.reasoning_effort
    thoughts = thoughts_by_message(job, chat.messages, memory)
    if effort is None:
        known = thoughts if quirks.thinks_unasked else {}
        return _Thinking(quirks.thinks_unasked, {}, {}, known)
    if effort == "none":
        return _unthinking(job, thoughts)
    config = {"effort": _nearest(effort, quirks.efforts)} if quirks.efforts else {}
    if quirks.adaptive:
        fields: JsonObject = {"type": "adaptive"}
        if quirks.omits_thoughts:
            fields["display"] = "summarized"
        return _Thinking(True, {"thinking": fields}, config, thoughts)
    if quirks.budgets and limit > _LEAST_BUDGET and _starts_with_thoughts(chat.messages, thoughts):
        # At least a quarter of the tokens remains for the answer, where there are enough.
        budget = min(_BUDGETS[effort], max(_LEAST_BUDGET, limit * 3 // 4))
        enabled = {"type": "enabled", "budget_tokens": budget}
        return _Thinking(True, {"thinking": enabled}, {}, thoughts)
    return _Thinking(quirks.thinks_unasked, {}, {}, thoughts if quirks.thinks_unasked else {})


def _unthinking(job: Job, thoughts: dict[int, Thoughts]) -> _Thinking:
    """As little thinking as the model can: off, only between tools, or at the lowest effort."""
    quirks = job.quirks.anthropic
    if not quirks.thinks_unasked:
        return _Thinking(False, {}, {}, {})
    if quirks.switch_off is None:
        lowest = {"effort": quirks.efforts[0]} if quirks.efforts else {}
        return _Thinking(True, {}, lowest, thoughts)
    off = {"thinking": {"type": quirks.switch_off}}
    between = quirks.switch_off == "between_tools"
    return _Thinking(between, off, {}, thoughts if between else {})


_ORDER = ("low", "medium", "high", "xhigh", "max")


def _nearest(effort: str, taken: tuple[str, ...]) -> str:
    """The effort itself, else the next lower one the model takes."""
    rank = _ORDER.index(effort)
    return next((e for e in reversed(_ORDER[: rank + 1]) if e in taken), taken[0])


def _starts_with_thoughts(messages: list[Message], thoughts: dict[int, Thoughts]) -> bool:
    """Whether budgeted thinking may be on: a tool-calling turn must begin with its thoughts.

    The API checks the last one (`Expected thinking …, but found tool_use`); the whole of the
    running tool loop is asked for here. Adaptive thinking has no such rule.
    """
    in_loop = False
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role == "assistant" and message.tool_calls:
            if index not in thoughts:
                return False
            in_loop = True
        elif message.role == "user" and in_loop:
            return True
    return True


# ----------------------------------------------------------------------------- tools and formats


def _tools(
    job: Job, chat: Chat, conversation: Conversation, thinking: _Thinking, hints: list[str]
) -> JsonObject:
    if not chat.tools:
        if not conversation.called:
            return {}
        # A history with calls needs tools (wire notes 5.5), though none may be called now.
        known = [{"name": n, "input_schema": tool_schema(None)} for n in conversation.called]
        return {"tools": known, "tool_choice": {"type": "none"}}
    unique = {tool.name: tool for tool in reversed(chat.tools)}  # a name twice is a 400
    tools = [_tool(job, tool) for tool in reversed(unique.values())]
    choice = _tool_choice(job, chat.tool_choice, thinking, hints)
    if chat.parallel_tool_calls is False and (choice is None or choice["type"] != "none"):
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return {"tools": tools, "tool_choice": choice} if choice else {"tools": tools}


def _tool(job: Job, tool: Tool) -> JsonObject:
    schema = tool_schema(tool.parameters)
    if schema is None:
        raise refuse(
            "A function's parameters must be of type 'object'.", f"{tool.param}.parameters"
        )
    made: JsonObject = {"name": call_name(tool.name)}
    if tool.description:
        made["description"] = tool.description
    made["input_schema"] = schema
    if tool.strict and job.quirks.anthropic.structured:
        closed = strict_schema(schema)
        if closed is not None:
            made["input_schema"] = closed
            made["strict"] = True
    if tool.cache_control:
        made["cache_control"] = tool.cache_control
    return made


def _strict_within_limits(tools: list[JsonObject], output_format: JsonObject) -> None:
    """Drop ``strict`` from the tools that go beyond what one request may have, format included."""
    count = 0
    optional, unions = count_parameters(output_format.get("format", {}).get("schema"))
    for tool in tools:
        if "strict" not in tool:
            continue
        more = count_parameters(tool["input_schema"])
        count, optional, unions = count + 1, optional + more[0], unions + more[1]
        if count > _MAX_STRICT_TOOLS or optional > _MAX_OPTIONAL or unions > _MAX_UNIONS:
            del tool["strict"]
            count, optional, unions = count - 1, optional - more[0], unions - more[1]


def _tool_choice(
    job: Job, choice: ToolChoice | None, thinking: _Thinking, hints: list[str]
) -> JsonObject | None:
    if choice is None or choice.mode in ("auto", "none"):
        return {"type": choice.mode} if choice else None
    quirks = job.quirks.anthropic
    if not quirks.forced_tools or (thinking.on and not quirks.forced_tools_thinking):
        # Refused upstream: say it in words instead.
        name = call_name(choice.name)
        wish = f"the tool {name!r}" if choice.mode == "named" else "at least one of the tools"
        hints.append(f"Call {wish} in your next answer.")
        return {"type": "auto"}
    if choice.mode == "named":
        return {"type": "tool", "name": call_name(choice.name)}
    return {"type": "any"}


def _output_format(job: Job, wanted: ResponseFormat, hints: list[str]) -> JsonObject:
    if wanted.type == "text":
        return {}
    if wanted.type == "json_schema" and wanted.schema is not None:
        schema = strict_schema(wanted.schema) if job.quirks.anthropic.structured else None
        optional, unions = count_parameters(schema)
        if schema is not None and optional <= _MAX_OPTIONAL and unions <= _MAX_UNIONS:
            return {"format": {"type": "json_schema", "schema": schema}}
        told = orjson.dumps(wanted.schema).decode()
        hints.append(f"{_JSON_OBJECT} It must match this JSON Schema:\n{told}")
        return {}
    hints.append(_JSON_OBJECT)
    return {}


# ----------------------------------------------------------------------------- system and caching


def _system(blocks: list[JsonObject], hints: list[str]) -> JsonObject:
    """All system texts in order, as one string where no block is marked for caching."""
    blocks = [*blocks, *({"type": "text", "text": hint} for hint in hints)]
    if not blocks:
        return {}
    if any("cache_control" in block for block in blocks):
        return {"system": blocks}
    return {"system": "\n".join(block["text"] for block in blocks)}


def _cache_mark(value: Any) -> JsonObject | None:
    """A well-formed cache_control, nothing else in it; None for anything else."""
    if not isinstance(value, dict) or value.get("type") != "ephemeral":
        return None
    ttl = value.get("ttl")
    return {"type": "ephemeral", "ttl": ttl} if ttl in ("5m", "1h") else {"type": "ephemeral"}


def _bound_cache_marks(body: JsonObject) -> None:
    """At most four marks, the last ones (they cover most); no 1h mark after a 5m one."""
    system = body.get("system")
    blocks = list(body.get("tools", ())) + (system if isinstance(system, list) else [])
    for message in body["messages"]:
        if isinstance(message["content"], list):
            blocks += message["content"]
    marked = []
    for block in blocks:
        if "cache_control" not in block:
            continue
        mark = _cache_mark(block.pop("cache_control"))
        if mark and block.get("type") not in ("thinking", "redacted_thinking"):
            marked.append((block, mark))
    allowed = _MAX_CACHE_MARKS - ("cache_control" in body)
    short = False
    for block, mark in marked[-allowed:]:
        if short and mark.get("ttl") == "1h":
            mark = {"type": "ephemeral"}  # noqa: PLW2901
        short = short or mark.get("ttl") != "1h"
        block["cache_control"] = mark
