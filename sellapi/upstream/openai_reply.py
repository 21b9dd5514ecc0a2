"""Reading what an OpenAI-compatible provider answers: typed glances, usage, edits in the bytes.

What comes back goes out as it came. So a reply is decoded once, into only the fields that matter
for money and grammar, and the bytes themselves are edited (`rename`, `edit`) where a field must change.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import msgspec
import orjson

from sellapi.domain.usage import MAX_COUNT, Usage
from sellapi.upstream.adapter import TextCount

__all__ = [
    "ABSENT",
    "Call",
    "Choice",
    "Chunk",
    "Piece",
    "decode_chunk",
    "dumps",
    "edit",
    "is_null",
    "loads",
    "public_usage",
    "read_usage",
    "readable",
    "rename",
]

ABSENT = msgspec.Raw()
_NOTHING = (b"", b"null")
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class Call(msgspec.Struct):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class Piece(msgspec.Struct):
    """A message, or a delta of one."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    function_call: _Function | None = None

    def count(self, text: TextCount) -> None:
        """Add everything the model wrote here."""
        if self.content:
            text.add(self.content)
        if self.reasoning_content:
            text.add(self.reasoning_content)
        elif self.reasoning:  # some send the same thought under both names
            text.add(self.reasoning)
        if self.refusal:
            text.add(self.refusal)
        for call in self.tool_calls or ():
            if call.function is not None:
                text.add((call.function.name or "") + (call.function.arguments or ""))
            if call.custom is not None:
                text.add((call.custom.name or "") + (call.custom.input or ""))
        if self.function_call is not None:
            text.add((self.function_call.name or "") + (self.function_call.arguments or ""))


class Choice(msgspec.Struct):
    index: int = 0
    delta: Piece | None = None
    message: Piece | None = None
    finish_reason: str | None = None
    error: msgspec.Raw = ABSENT


class Chunk(msgspec.Struct):
    """A chunk of a stream or a whole completion: what is looked at, nothing else."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    obfuscation: msgspec.Raw = ABSENT
    object: str | None = None


_chunk_decoder = msgspec.json.Decoder(Chunk)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def is_null(raw: msgspec.Raw) -> bool:
    """Whether a field is absent or null."""
    return raw is ABSENT or bytes(raw) in _NOTHING


def readable(data: bytes) -> bytes:
    """The same bytes, those that are no UTF-8 replaced: the SDKs stop at them."""
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data


def loads(data: bytes) -> Any:
    """Any JSON a provider may send, lone surrogates and NaN too; raises ValueError."""
    try:
        return orjson.loads(data)
    except ValueError:
        try:
            return json.loads(data.decode("utf-8", "replace"))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def dumps(value: Any) -> bytes:
    """JSON of anything `loads` returned: lone surrogates, integers beyond 64 bits too."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def decode_chunk(data: bytes) -> Chunk:
    """The typed glance at a chunk or completion; raises ValueError when it is no JSON object.

    Fields of unexpected types count as absent rather than being an error.
    """
    try:
        return _chunk_decoder.decode(data)
    except msgspec.DecodeError:  # ValidationError too
        return _lenient(loads(data))


def _lenient(value: Any) -> Chunk:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one error for all garbage
    choices = value.get("choices")
    return Chunk(
        model=_string(value.get("model")),
        choices=[_lenient_choice(c) for c in choices if isinstance(c, dict)]
        if isinstance(choices, list)
        else None,
        usage=_raw(value, "usage"),
        error=_raw(value, "error"),
        obfuscation=_raw(value, "obfuscation"),
        object=_string(value.get("object")),
    )


def _lenient_choice(value: dict[str, Any]) -> Choice:
    index = value.get("index")
    return Choice(
        index=index if type(index) is int else 0,
        delta=_lenient_piece(value.get("delta")),
        message=_lenient_piece(value.get("message")),
        finish_reason=_string(value.get("finish_reason")),
        error=_raw(value, "error"),
    )


def _lenient_piece(value: Any) -> Piece | None:
    if not isinstance(value, dict):
        return None
    piece = Piece(
        role=_string(value.get("role")),
        content=_string(value.get("content")),
        reasoning_content=_string(value.get("reasoning_content")),
        reasoning=_string(value.get("reasoning")),
        refusal=_string(value.get("refusal")),
    )
    if isinstance(value.get("content"), list):  # parts, as Mistral's reasoning models answer
        piece.content = "".join(_texts(value["content"]))
    calls = value.get("tool_calls")
    if isinstance(calls, list):
        piece.tool_calls = [_lenient_call(call) for call in calls if isinstance(call, dict)]
    return piece


def _lenient_call(value: dict[str, Any]) -> Call:
    index, function = value.get("index"), value.get("function")
    call = Call(index=index if type(index) is int else None, id=_string(value.get("id")))
    if isinstance(function, dict):
        arguments = function.get("arguments")
        if not isinstance(arguments, str | None):
            arguments = orjson.dumps(arguments, default=str).decode()
        call.function = _Function(name=_string(function.get("name")), arguments=arguments)
    return call


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [t for k in ("text", "thinking", "content") for t in _texts(value.get(k))]
    return []


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _raw(value: dict[str, Any], key: str) -> msgspec.Raw:
    if key not in value:
        return ABSENT
    return msgspec.Raw(dumps(value[key]))


# --- edits in the bytes


def rename(data: bytes, old: str | None, new: bytes) -> bytes:
    """The reply with its top-level ``model`` (``old``, as decoded) replaced by ``new`` (JSON).

    The bytes are edited in place when ``"model"`` stands in them once: then it is that key, for
    inside a JSON string its quotes would be escaped (and no escape spells the key in other ways).
    Otherwise the object is written again.
    """
    if old is not None and data.count(b'"model"') == 1 and b"\\u006" not in data:
        name = _encoder.encode(old)
        for found in (b'"model":' + name, b'"model": ' + name):
            if data.count(found) == 1:
                return data.replace(found, found[: -len(name)] + new)
    return edit(data, {"model": new})


def edit(data: bytes, put: dict[str, bytes], drop: tuple[str, ...] = ()) -> bytes:
    """The JSON object with top-level fields dropped, replaced or added (values as JSON).

    All other values keep their bytes.
    """
    try:
        fields = _fields_decoder.decode(data)
    except msgspec.DecodeError:  # what only the tolerant parser reads
        value = {k: v for k, v in loads(data).items() if k not in drop}
        return dumps(value | {key: loads(raw) for key, raw in put.items()})
    for name in drop:
        fields.pop(name, None)
    fields.update({name: msgspec.Raw(raw) for name, raw in put.items()})
    return _encoder.encode(fields)


# --- usage


_COST = re.compile(rb"cost|byok", re.IGNORECASE)


def public_usage(raw: bytes) -> bytes:
    """``usage`` (JSON) without what the call cost the operator; the same object if it says nothing.

    OpenRouter tells ``cost``, ``cost_details`` and ``is_byok``, xAI ``cost_in_usd_ticks``, DeepInfra
    ``estimated_cost``: none of it is a customer's business.
    """
    lower = raw.lower()
    if b"cost" not in lower and b"byok" not in lower:
        return raw
    value = loads(raw)
    if not isinstance(value, dict):
        return raw
    return dumps({k: v for k, v in value.items() if not _COST.search(k.encode("utf-8", "replace"))})


def _count(value: Any) -> int | None:
    """A token count from what providers send as one; None when it is none."""
    if isinstance(value, str):
        try:
            value = float(value) if len(value) < 20 else None
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MAX_COUNT else None  # NaN compares false


def _first(value: dict[str, Any], *names: str) -> int | None:
    for name in names:
        found = value.get(name)
        if found is None:
            continue
        if found.__class__ is int and 0 <= found <= MAX_COUNT:  # what nearly all of them send
            return found
        if (count := _count(found)) is not None:
            return count
    return None


def _details(value: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        if isinstance(found := value.get(name), dict):
            return found
    return {}


class _InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: _Tokens = 0
    cache_write_tokens: _Tokens = 0
    audio_tokens: _Tokens = 0
    image_tokens: _Tokens = 0


class _OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: _Tokens = 0
    audio_tokens: _Tokens = 0
    image_tokens: _Tokens = 0


_NO_INPUT_DETAILS = _InputDetails()
_NO_OUTPUT_DETAILS = _OutputDetails()


class _Usual(msgspec.Struct):
    """``usage`` of a chat as OpenAI itself and most others write it."""

    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    total_tokens: _Tokens
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    # Where some say them instead: then it is not the usual shape.
    reasoning_tokens: None = None
    cached_tokens: None = None
    prompt_cache_hit_tokens: None = None


_usual_decoder = msgspec.json.Decoder(_Usual)


def _read_usual(raw: bytes) -> Usage | None:
    """What `_read_any` gives for usage of the usual shape, at a fifth of its cost; None for others."""
    try:
        said = _usual_decoder.decode(raw)
    except msgspec.DecodeError:
        return None
    into = said.prompt_tokens_details or _NO_INPUT_DETAILS
    out = said.completion_tokens_details or _NO_OUTPUT_DETAILS
    aside = into.cached_tokens + into.cache_write_tokens + into.audio_tokens + into.image_tokens
    output = said.completion_tokens
    usual = (
        said.total_tokens > 0
        and aside <= said.prompt_tokens
        and said.prompt_tokens + output == said.total_tokens
        and out.reasoning_tokens <= output
        and not out.image_tokens
    )
    if not usual:
        return None
    return Usage(
        input=said.prompt_tokens - aside,
        cache_read=into.cached_tokens,
        cache_write=into.cache_write_tokens,
        audio_input=into.audio_tokens,
        image_input=into.image_tokens,
        output=output,
        reasoning=out.reasoning_tokens,
        raw=raw,
    )


def read_usage(raw: bytes, images: int = 0) -> Usage | None:
    """Disjoint buckets from OpenAI's ``usage`` (wire notes 1.6, images 3.1); None if it says none.

    Cached, cache-write, audio and image tokens are subsets of the prompt: what pathological reports
    have too many of is cut, in that order, so that the buckets always sum to ``prompt_tokens`` and
    ``completion_tokens``. DeepSeek and Moonshot name the cached part at the top level.
    """
    usual = _read_usual(raw) if raw and not images else None
    return _read_any(raw, images) if usual is None else usual


def _read_any(raw: bytes, images: int = 0) -> Usage | None:
    try:
        value = loads(raw) if raw else None
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    prompt = _first(value, "prompt_tokens", "input_tokens")
    output = _first(value, "completion_tokens", "output_tokens")
    total = _first(value, "total_tokens")
    # What was read must be known, and is never nothing; else the gateway counts for itself.
    if not (prompt or output or total) or (prompt is None and total is None):
        return None
    if prompt is None:
        prompt = max(0, (total or 0) - (output or 0))
    if output is None:
        output = max(0, (total or 0) - prompt)
    into = _details(value, "prompt_tokens_details", "input_tokens_details")
    out = _details(value, "completion_tokens_details", "output_tokens_details")
    reasoning = _first(out, "reasoning_tokens") or _first(value, "reasoning_tokens") or 0
    if reasoning and total == prompt + output + reasoning:
        output += reasoning  # xAI reports reasoning beside completion_tokens, not inside
    cached = _first(into, "cached_tokens")
    if cached is None:
        cached = _first(value, "cached_tokens", "prompt_cache_hit_tokens")
    left = prompt
    cut: list[int] = []
    for part in (cached, *(_first(into, f"{n}_tokens") for n in ("cache_write", "audio", "image"))):
        cut.append(min(part or 0, left))
        left -= cut[-1]
    drawn = _first(out, "image_tokens")
    if drawn is None and images:
        drawn = output - min(_first(out, "text_tokens") or 0, output)
    image_output = min(drawn or 0, output)
    return Usage(
        input=left,
        cache_read=cut[0],
        cache_write=cut[1],
        audio_input=cut[2],
        image_input=cut[3],
        output=output - image_output,
        image_output=image_output,
        images=images,
        reasoning=min(reasoning, output - image_output),
        raw=bytes(raw),
    )
