"""A chat request in Gemini's generateContent shape (wire notes 6.2 to 6.4, 6.7).

Field names and limits as google-genai 3.4 types them (``types.GenerationConfig``,
``types.FunctionDeclaration``); what a model refuses comes from `GeminiQuirks`.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from sellapi.domain.quirks import GeminiQuirks
from sellapi.upstream.adapter import Job
from sellapi.upstream.gemini_contents import write_contents
from sellapi.upstream.gemini_signatures import SignatureStore
from sellapi.upstream.openai_shape import Chat, JsonObject, Tool, exact_dumps, field_value, refuse

__all__ = ["chat_body", "model_path", "state_limit"]

CANDIDATES_MAX = 8
"""Most candidates one call may ask for (Google's own limit)."""
_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}", re.ASCII)
_SCHEMA_WORDS = frozenset(("$ref", "anyOf", "oneOf", "allOf", "patternProperties", "enum"))
"""What makes a schema without properties still say something."""

_LEVELS = {
    "none": "minimal",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_LEVEL_ORDER = ("minimal", "low", "medium", "high")
_BUDGETS = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
"""thinkingBudget by effort, as Google's own OpenAI layer has it; above high: the model's most."""
_MODES = {"auto": "AUTO", "required": "ANY", "named": "ANY", "none": "NONE"}
_SEED_LIMIT = 2**31


def model_path(upstream_id: str, method: str) -> str:
    """``/v1beta/models/ID:METHOD``, the id quoted."""
    return f"/v1beta/models/{quote(upstream_id.removeprefix('models/'), safe='')}:{method}"


def chat_body(job: Job, chat: Chat, signatures: SignatureStore) -> bytes:
    """The body of ``:generateContent``; raises `InvalidRequest` naming what cannot be done."""
    quirks = job.quirks.gemini
    contents = write_contents(job, chat, signatures)
    tools = _usable_tools(chat, quirks)
    body: JsonObject = {"contents": contents.turns}
    if contents.system:
        body["systemInstruction"] = {"parts": contents.system}
    if tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in tools]}]
        body["toolConfig"] = {"functionCallingConfig": _calling_config(chat)}
    config = _generation_config(job, chat)
    if config:
        body["generationConfig"] = config
    # One provider account serves many customers: nothing of theirs is kept there.
    body["store"] = False
    return exact_dumps(body)


# Tools


def _usable_tools(chat: Chat, quirks: GeminiQuirks) -> list[Tool]:
    """The tools to declare, a name once; before Gemini 3 there are none beside a JSON answer."""
    if not chat.tools or chat.response_format.type == "text" or quirks.json_with_tools:
        return list({tool.name: tool for tool in reversed(chat.tools)}.values())[::-1]
    if chat.tool_choice is not None and chat.tool_choice.mode == "none":
        return []
    raise refuse(
        "This model cannot answer in JSON ('response_format') while it has 'tools': leave one out.",
        "response_format",
    )


def _declaration(tool: Tool) -> JsonObject:
    if not _TOOL_NAME.fullmatch(tool.name):
        raise refuse(
            f"This model needs function names that begin with a letter or _: {tool.name!r} does not.",
            f"{tool.param}.name",
        )
    found: JsonObject = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    schema = _parameters(tool.parameters)
    if schema is not None:
        found["parametersJsonSchema"] = schema
    return found


def _parameters(schema: JsonObject | None) -> JsonObject | None:
    """The schema of a function's arguments, or None when it takes none (6.3: then left out)."""
    if not schema:
        return None
    extra = schema.get("additionalProperties")
    open_ended = isinstance(extra, dict) and bool(extra)
    if not schema.get("properties") and not open_ended and _SCHEMA_WORDS.isdisjoint(schema):
        return None
    found = {name: value for name, value in schema.items() if name not in ("$schema", "strict")}
    if "type" not in found and "properties" in found:
        found["type"] = "object"
    return found


def _calling_config(chat: Chat) -> JsonObject:
    """AUTO unless the client chose; a named function is ANY narrowed to it."""
    choice = chat.tool_choice
    if choice is None:
        return {"mode": "AUTO"}
    config: JsonObject = {"mode": _MODES[choice.mode]}
    if choice.mode == "named":
        config["allowedFunctionNames"] = [choice.name]
    return config


# generationConfig


def _generation_config(job: Job, chat: Chat) -> JsonObject:
    quirks = job.quirks.gemini
    config: JsonObject = {}
    state_limit(job, config)
    if quirks.sampling:
        _sampling(job, chat, config)
    if quirks.penalties:
        _set(config, "presencePenalty", chat.presence_penalty)
        _set(config, "frequencyPenalty", chat.frequency_penalty)
    if chat.seed is not None:
        config["seed"] = chat.seed % _SEED_LIMIT  # an int32 there, an int64 at OpenAI
    stop = [text for text in chat.stop if text]
    if stop:
        config["stopSequences"] = stop
    _candidates(job, config)
    _logprobs(chat, config)
    _format(chat, config)
    thinking = _thinking(chat.reasoning_effort, quirks)
    if thinking:
        config["thinkingConfig"] = thinking
    return config


def state_limit(job: Job, config: JsonObject) -> None:
    """``maxOutputTokens`` when the client chose it or the hold is smaller than the maximum."""
    if job.output_limit is not None and (job.client_stated_limit or job.bounded):
        config["maxOutputTokens"] = job.output_limit


def _set(config: JsonObject, name: str, value: Any) -> None:
    if value is not None:
        config[name] = value


def _sampling(job: Job, chat: Chat, config: JsonObject) -> None:
    _set(config, "temperature", chat.temperature)
    _set(config, "topP", chat.top_p)
    top_k = field_value(job, "top_k")  # not OpenAI's, but many clients send it
    if type(top_k) is int and top_k > 0:
        config["topK"] = top_k


def _candidates(job: Job, config: JsonObject) -> None:
    if job.n == 1:
        return
    if job.stream:
        raise refuse("This model streams one choice only: leave 'n' at 1.", "n")
    if job.n > CANDIDATES_MAX:
        raise refuse(f"This model gives at most {CANDIDATES_MAX} choices.", "n")
    config["candidateCount"] = job.n


def _logprobs(chat: Chat, config: JsonObject) -> None:
    if chat.top_logprobs and not chat.logprobs:
        raise refuse("'top_logprobs' needs 'logprobs': true.", "top_logprobs")
    if not chat.logprobs:
        return
    config["responseLogprobs"] = True
    if chat.top_logprobs:
        if not 0 < chat.top_logprobs <= 20:
            raise refuse("'top_logprobs' must be between 0 and 20.", "top_logprobs")
        config["logprobs"] = chat.top_logprobs


def _format(chat: Chat, config: JsonObject) -> None:
    wanted = chat.response_format
    if wanted.type == "text":
        return
    config["responseMimeType"] = "application/json"
    if wanted.schema:
        config["responseJsonSchema"] = {
            name: value
            for name, value in wanted.schema.items()
            if name not in ("$schema", "strict")
        }


def _thinking(effort: str | None, quirks: GeminiQuirks) -> JsonObject:
    """A level or a budget of thinking, never both; nothing for models that do not think."""
    if effort is None or not (quirks.levels or quirks.budgets):
        return {}
    config: JsonObject = {}
    if quirks.levels:
        config["thinkingLevel"] = _level(effort, quirks.levels)
    elif quirks.budgets is not None:
        least, most = quirks.budgets
        config["thinkingBudget"] = min(max(_BUDGETS.get(effort, most), least), most)
    if effort != "none":
        config["includeThoughts"] = True
    return config


def may_think(effort: str | None, quirks: GeminiQuirks) -> bool:
    """Not with a budget of none (wire notes 6.4); a level, even the least, is no promise."""
    return quirks.budgets is None or _thinking(effort, quirks).get("thinkingBudget") != 0


def _level(effort: str, levels: tuple[str, ...]) -> str:
    """The wanted level, else the next stronger one the model knows, else its strongest."""
    wanted = _LEVEL_ORDER.index(_LEVELS[effort])
    return next((level for level in levels if _LEVEL_ORDER.index(level) >= wanted), levels[-1])
