"""What a request asks for, read from its raw fields: the checks of money.md and the upper estimate.

Three readers, one for each mode, give an `Asked`: the job's figures and the `Demand` a hold is
priced by. Billing fields (those that choose model, tier or paid extras) are refused by name here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson

from sellapi.domain.catalog import Model
from sellapi.domain.holds import Demand
from sellapi.domain.usage import Usage
from sellapi.errors import InvalidRequest
from sellapi.upstream.openai_media_urls import named_urls
from sellapi.wire.fields import ChatFields, EmbeddingFields, ImageFields, shorten

__all__ = ["READERS", "Asked", "NotOffered", "refuse_billing_fields"]

RawFields = dict[str, msgspec.Raw]


class Asked(msgspec.Struct, frozen=True):
    """A request as far as billing is concerned."""

    demand: Demand
    estimate: Usage
    """The prompt as it is charged when the provider reports no usage (not the upper estimate)."""
    stream: bool = False
    include_usage: bool = False


# -- billing fields ------------------------------------------------------------------------------


class NotOffered(InvalidRequest):
    """A field the catalog does not allow for this model (it may since the catalog was read)."""


_REFUSED = frozenset(
    (
        "models",
        "route",
        "provider",
        "plugins",
        "fallbacks",
        "context_window_fallbacks",
        "api_base",
        "base_url",
        "api_key",
        "custom_llm_provider",
        "deployment_id",
        "preset",
        "web_search_options",
        "audio",
        "best_of",
        "search_parameters",
        "enable_search",
    )
)
_REFUSED_IMAGES = frozenset(
    (
        *("stream", "partial_images"),
        # What compatible providers call ``n``: SiliconFlow, Novita, fal, Replicate, Google, Fireworks.
        *("batch_size", "image_num", "num_images", "num_outputs", "number_of_images", "samples"),
    )
)
_BILLED = frozenset(
    (
        "model",
        "messages",
        "input",
        "prompt",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "service_tier",
        "modalities",
        "tools",
        "size",
        "quality",
        "dimensions",
    )
)
_ALWAYS_TAKEN = frozenset(
    (
        *("model", "messages", "n", "max_tokens", "max_completion_tokens", "stream"),
        *("stream_options", "tools", "tool_choice", "response_format", "temperature", "top_p"),
        *("stop", "seed", "user", "reasoning_effort", "frequency_penalty", "presence_penalty"),
    )
)
"""Of a chat: with nothing else in it there is nothing to refuse by name."""
_SERVICE_TIERS = (b'"auto"', b'"default"')
_DECLINED = {"stream": (b"false",), "partial_images": (b"0",), "enable_search": (b"false",)}
"""Values that ask for nothing: some clients always write them."""
_SENSITIVE = _REFUSED | _REFUSED_IMAGES | _BILLED


def refuse_billing_fields(fields: Mapping[str, msgspec.Raw], model: Model) -> None:
    """Raise `InvalidRequest` naming a field that would choose what is paid for.

    Fields the catalog allows for the model pass; so do an explicit null and a plain no.
    """
    if model.mode == "chat" and fields.keys() <= _ALWAYS_TAKEN:
        return
    for name, raw in fields.items():
        lower = name.casefold()  # Go reads folded names: the Kelvin sign is a k
        if lower in _SENSITIVE and name != lower:
            raise InvalidRequest(
                f"The field '{name}' is spelled '{lower}': use lower case.", param=name
            )
        if name in model.allowed_fields or bytes(raw) == b"null":
            continue
        refused = name in _REFUSED or (model.mode == "image" and name in _REFUSED_IMAGES)
        if refused and bytes(raw) not in _DECLINED.get(name, ()):
            raise NotOffered(f"The field '{name}' is not offered here: leave it out.", param=name)
        if name == "service_tier" and bytes(raw) not in _SERVICE_TIERS:
            raise NotOffered("Only the service tiers 'auto' and 'default' are offered.", param=name)


def _refuse_extras(asked: ChatFields, fields: RawFields, model: Model) -> None:
    allowed = model.allowed_fields
    if asked.modalities not in (None, ["text"]) and "modalities" not in allowed:
        raise NotOffered("Only the modality 'text' is offered.", param="modalities")
    tools = fields.get("tools")
    if tools is None or bytes(tools) == b"null":
        return
    for index, tool in enumerate(_typed(tools, _TOOLS, "tools")):
        if tool.type not in ("function", "custom") and "tools" not in allowed:
            raise NotOffered(
                f"Tools of type '{tool.type[:40]}' are not offered: use functions.",
                param=f"tools[{index}].type",
            )


class _Tool(msgspec.Struct):
    type: str


class _Message(msgspec.Struct):
    role: str


_TOOLS = msgspec.json.Decoder(list[_Tool])
_MESSAGES = msgspec.json.Decoder(list[_Message])


def _typed(raw: msgspec.Raw, decoder: Any, param: str) -> Any:
    """Decode a raw value to a type; raises `InvalidRequest` naming the place that is wrong."""
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise InvalidRequest(f"The field '{param}' is nested too deeply.", param=param) from None
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        param += place.removesuffix("`").replace("[...]", "[]")
        raise InvalidRequest(f"The field '{param}' is wrong: {message}.", param=param) from None
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidRequest(f"The field '{param}' is not valid: {error}.", param=param) from None


# -- counting ------------------------------------------------------------------------------------

_ASCII = bytes(range(128))
_UPPER_MESSAGE_OVERHEAD = 16
_UPPER_TOOLS_OVERHEAD = 1_024
"""Providers put instructions of their own before tools (Anthropic up to about 700 tokens)."""
_BYTES_PER_AUDIO_TOKEN = 25
"""Below any audio format's bytes per token (mp3 at 8 kbit/s: 1,000 bytes and 32 tokens a second)."""
_BYTES_PER_DOCUMENT_TOKEN = 4
_PARTS_MAX = 500_000
"""More than any prompt has; each costs the other callers' time."""


def _split(raw: bytes) -> tuple[int, int]:
    """ASCII characters and other bytes."""
    if raw.isascii():
        return len(raw), 0
    other = len(raw.translate(None, _ASCII))
    return len(raw) - other, other


def upper_tokens(ascii_count: int, other: int) -> int:
    """An upper estimate of tokens: half the ASCII characters, every other byte."""
    return ascii_count // 2 + other + 1


def fair_tokens(ascii_count: int, other: int) -> int:
    """What is charged when a provider reports nothing: ASCII / 4 + other bytes / 2, rounded up."""
    return -(-(ascii_count + 2 * other) // 4)


def _may_hold_media(text: bytes) -> bool:
    """Whether a part may be something else than text (a key may be spelled with escapes)."""
    return (
        b'url"' in text  # image_url, and what extensions call theirs
        or b'"input_audio"' in text
        or b'"file"' in text
        or b'"document"' in text
        or b'"image"' in text
        or b"\\u00" in text
    )


_WORDS = ("text", "refusal")


class _Media:
    """Sums over the parts of a prompt that are not text."""

    def __init__(self, model: Model, lengths: Mapping[str, int]) -> None:
        self._lengths = lengths
        self.image_tokens = max((r.quirks.image_tokens for r in model.routes), default=1_700)
        self.document_tokens = max(
            (r.quirks.document_tokens for r in model.routes), default=300_000
        )
        self.bytes_seen = 0
        self.tokens = 0
        self.audio = 0

    def walk(self, value: Any, depth: int = 0) -> None:
        """Add every media part below a decoded value."""
        if depth > 8:
            return
        if isinstance(value, list):
            for item in value:
                self.walk(item, depth + 1)
        elif isinstance(value, dict) and not self._part(value):
            self.walk(value.get("content"), depth + 1)

    def _part(self, part: dict[str, Any]) -> bool:
        kind = part.get("type")
        if kind in ("image_url", "image"):
            self.tokens += self.image_tokens
            self.bytes_seen += self._size(self._longest(part))
        elif kind == "input_audio":
            size = self._size(self._longest(part))
            self.bytes_seen += size
            self.audio += size // _BYTES_PER_AUDIO_TOKEN + 64
            self._unseen(part)
        elif kind in ("file", "document"):
            data = self._longest(part)
            size = self._size(data)
            # a URL or an id says nothing about what it stands for, however long it is made
            seen = size > 512 and "://" not in data[:16]
            self.bytes_seen += size if seen else 0
            self.tokens += (
                min(self.document_tokens, size // _BYTES_PER_DOCUMENT_TOKEN + 3_000)
                if seen
                else self.document_tokens
            )
        else:
            if isinstance(kind, str) and kind not in _WORDS and "content" not in part:
                self._unseen(part)  # a video, say: compatible providers know more than OpenAI does
            return False
        return True

    def _unseen(self, part: dict[str, Any]) -> None:
        """What a part names by URL may be as long as any document."""
        self.tokens += self.document_tokens * len(named_urls([{"content": [part]}]))

    def _size(self, text: str) -> int:
        return self._lengths.get(text, len(text))

    def _longest(self, value: Any) -> str:
        """The longest string below a part, its data or URL; a long one by its stand-in."""
        if isinstance(value, str):
            return value
        if isinstance(value, dict):
            return max((self._longest(v) for v in value.values()), key=self._size, default="")
        return ""


def _chat(fields: RawFields, model: Model) -> Asked:
    asked: ChatFields = ChatFields.read(fields)
    raw = _required(fields, "messages")
    messages = _typed(raw, _MESSAGES, "messages")
    if not messages:
        raise InvalidRequest("The field 'messages' is empty: send at least one.", param="messages")
    _refuse_extras(asked, fields, model)
    upper, fair, audio = _prompt_tokens(raw, model)
    for name in ("tools", "functions", "response_format"):
        if name in fields:
            counts = _split(bytes(fields[name]))
            upper += upper_tokens(*counts) + _UPPER_TOOLS_OVERHEAD
            fair += fair_tokens(*counts)
    upper += len(messages) * _UPPER_MESSAGE_OVERHEAD
    upper, fair, audio = _fitting(model, upper), _fitting(model, fair), _fitting(model, audio)
    options = asked.stream_options
    return Asked(
        Demand(
            prompt=Usage(input=upper, audio_input=audio),
            n=asked.n or 1,
            stated_output=asked.stated_output,
        ),
        Usage(input=fair, audio_input=audio),
        stream=bool(asked.stream),
        include_usage=bool(asked.stream and options and options.include_usage),
    )


def _fitting(model: Model, tokens: int) -> int:
    """Never more than the context, where the operator has told it: a guess would hold too little."""
    return tokens if model.context_length is None else min(tokens, model.context_length)


def _prompt_tokens(raw: msgspec.Raw, model: Model) -> tuple[int, int, int]:
    """Upper estimate, fair estimate and audio tokens of a messages array."""
    ascii_count, other = _split(bytes(raw))
    text, lengths = shorten(raw)
    if not _may_hold_media(text):
        return upper_tokens(ascii_count, other), fair_tokens(ascii_count, other), 0
    if text.count(b"{") + text.count(b"[") > _PARTS_MAX:
        raise InvalidRequest("The field 'messages' has far too many parts.", param="messages")
    media = _Media(model, lengths)
    media.walk(orjson.loads(text))
    ascii_count = max(0, ascii_count - media.bytes_seen)
    return (
        upper_tokens(ascii_count, other) + media.tokens,
        fair_tokens(ascii_count, other) + media.tokens,
        media.audio,
    )


def _required(fields: RawFields, name: str) -> msgspec.Raw:
    if name not in fields:
        raise InvalidRequest(f"The field '{name}' is required.", param=name)
    return fields[name]


_MAX_INPUTS = 2_048
_INPUT_MAX_BYTES = 8_000_000
"""Several times what any maker takes in one call (OpenAI: 300,000 tokens)."""


def _embeddings(fields: RawFields, model: Model) -> Asked:
    EmbeddingFields.read(fields)
    raw = _required(fields, "input")
    if len(bytes(raw)) > _INPUT_MAX_BYTES:
        raise InvalidRequest(
            f"The field 'input' is too large: at most {_INPUT_MAX_BYTES // 1_000_000} MB are taken.",
            param="input",
        )
    value = _typed(raw, _INPUT, "input")
    inputs = value if isinstance(value, list) else [value]
    if not inputs:
        raise InvalidRequest("The field 'input' is empty: send at least one text.", param="input")
    if all(isinstance(item, int) and item.__class__ is int for item in inputs):
        inputs = [inputs]
    if len(inputs) > _MAX_INPUTS:
        raise InvalidRequest(
            f"The field 'input' has {len(inputs)} entries: at most {_MAX_INPUTS} are taken.",
            param="input",
        )
    upper = fair = 0
    for index, item in enumerate(inputs):
        if isinstance(item, list) and item and all(i.__class__ is int and i >= 0 for i in item):
            upper += len(item)
            fair += len(item)
        elif isinstance(item, str) and item:
            counts = _split(item.encode("utf-8", "surrogatepass"))
            upper += _fitting(model, upper_tokens(*counts))
            fair += _fitting(model, fair_tokens(*counts))
        else:
            where = f"input[{index}]" if isinstance(value, list) else "input"
            raise InvalidRequest(
                f"The field '{where}' must be a text that is not empty, or token ids.", param=where
            )
    return Asked(Demand(prompt=Usage(input=upper)), Usage(input=fair))


_INPUT = msgspec.json.Decoder(str | list[str | int | list[int]])


_IMAGE_TOKENS_BY_QUALITY = {"low": 400, "standard": 1_800, "medium": 1_800, "auto": 6_300}
_MOST_IMAGE_TOKENS = 6_300
"""gpt-image at 1536x1024 and high quality costs 6,208 tokens (OpenAI's image guide)."""
_PIXELS = 1024 * 1536


def _images(fields: RawFields, model: Model) -> Asked:
    asked: ImageFields = ImageFields.read(fields)
    # Lower case, as prices name them: Gemini's translation takes 2048X2048 as well.
    size, quality = (asked.size or "auto").lower(), (asked.quality or "auto").lower()
    counts = _split(bytes(fields["prompt"]))
    n = asked.n or 1
    return Asked(
        Demand(
            prompt=Usage(input=upper_tokens(*counts) + 64),
            images=n,
            image_tokens=_dearest_image(model, size, quality),
            size=size,
            quality=quality,
        ),
        Usage(input=fair_tokens(*counts)),
    )


def _dearest_image(model: Model, size: str, quality: str) -> int:
    """Most output tokens one image can cost on any route; some models know no quality."""
    by_quality = _image_tokens(size, quality)
    known = (route.quirks.image_output_tokens for route in model.routes)
    return max((tokens or by_quality for tokens in known), default=by_quality)


def _image_tokens(size: str, quality: str) -> int:
    """Most output tokens one image can cost, by quality and by pixels beyond 1536x1024."""
    tokens = _IMAGE_TOKENS_BY_QUALITY.get(quality, _MOST_IMAGE_TOKENS)
    if quality in ("xhigh", "max"):
        tokens *= 2
    width, _, height = size.partition("x")
    if width.isdecimal() and height.isdecimal() and len(size) <= 11:
        tokens = math.ceil(tokens * max(1, int(width) * int(height) / _PIXELS))
    return tokens


READERS: dict[str, Callable[[RawFields, Model], Asked]] = {
    "chat": _chat,
    "embedding": _embeddings,
    "image": _images,
}
