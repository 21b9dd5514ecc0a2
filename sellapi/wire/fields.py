"""The fields of a /v1 request that billing reads, as pydantic models; everything else passes through.

Shapes: OpenAI API reference, chat completions, embeddings and images (wire notes 1.1, 2, 3.1).
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sellapi.errors import InvalidRequest

__all__ = [
    "ChatFields",
    "EmbeddingFields",
    "Fields",
    "ImageFields",
    "decode_body",
    "read_slug",
    "shorten",
]

SHORT_BYTES = 2_000
"""Most bytes of a field that is a number, a word or a few of them: each element of a list that is wrong
costs a report of its own."""
Limit = Annotated[int, Field(ge=1, le=2**31)]


class Fields(BaseModel):
    """Common to all requests. ``read`` decodes just these keys from the raw values."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    long: ClassVar[frozenset[str]] = frozenset()
    """Fields that may be longer than `SHORT_BYTES`."""

    @classmethod
    def read(cls, fields: dict[str, msgspec.Raw]) -> Any:
        """Validate; raises `InvalidRequest` naming the first wrong field."""
        given = {name: bytes(fields[name]) for name in cls.model_fields if name in fields}
        for name, data in given.items():
            if len(data) > SHORT_BYTES and name not in cls.long:
                raise InvalidRequest(f"The field '{name}' is far too long.", param=name)
        try:
            values = {name: orjson.loads(data) for name, data in given.items()}
            return cls.model_validate(values)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"The body is not valid JSON: {error.msg}.") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            param = _path(first["loc"])
            if first["type"] == "missing":
                message = f"The field '{param}' is required."
            else:
                message = f"The field '{param}' is wrong: {first['msg']}."
            raise InvalidRequest(message, param=param) from None


def _path(loc: tuple[int | str, ...]) -> str:
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out or "body"


def read_slug(fields: dict[str, msgspec.Raw]) -> str:
    """The ``model`` of a request; raises `InvalidRequest`."""
    if "model" not in fields:
        raise InvalidRequest("The field 'model' is required.", param="model")
    try:
        slug = orjson.loads(bytes(fields["model"]))
    except orjson.JSONDecodeError:
        slug = None
    if not isinstance(slug, str) or not 1 <= len(slug) <= 256:
        raise InvalidRequest("The field 'model' must be the name of a model.", param="model")
    return slug


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    include_usage: bool | None = None


class ChatFields(Fields):
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    service_tier: str | None = None
    modalities: list[str] | None = None

    @property
    def stated_output(self) -> int | None:
        """The client's own limit; when both names are used the smaller one counts."""
        stated = [v for v in (self.max_completion_tokens, self.max_tokens) if v is not None]
        return min(stated, default=None)


class EmbeddingFields(Fields):
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None


class ImageFields(Fields):
    long = frozenset(("prompt",))
    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: Annotated[str, Field(max_length=32)] | None = None
    quality: Annotated[str, Field(max_length=32)] | None = None
    output_format: Annotated[str, Field(max_length=16)] | None = None
    response_format: Literal["b64_json"] | None = None


_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])

SMALL_BYTES = 131_072
"""Beyond so much besides its few large fields it is counted how many keys a body may have, by its colons:
it is decoded key by key, which costs the others' time."""
KEYS_MAX = 50_000


class _Large(msgspec.Struct):
    """The fields that may be large; everything else is skipped unseen."""

    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    functions: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    prediction: msgspec.Raw = msgspec.Raw()
    metadata: msgspec.Raw = msgspec.Raw()
    logit_bias: msgspec.Raw = msgspec.Raw()


_LARGE = msgspec.json.Decoder(_Large)
_HALF_A_PAIR = re.compile(
    rb"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(?<!\\)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""A surrogate without its other half, as JavaScript's JSON.stringify writes one."""
_PLACE = re.compile(r"\(byte (\d+)\)")


def _half_a_pair(body: bytes, complaint: str) -> re.Match[bytes] | None:
    """Half a character where the decoder stumbled, or near the end, where it calls that truncated."""
    place = _PLACE.search(complaint)
    at = len(body) if place is None else int(place[1])
    return _HALF_A_PAIR.search(body, max(0, at - 40), at + 40)


def _refuse_many_fields(body: bytes) -> None:
    large = _LARGE.decode(body)
    known = [getattr(large, name) for name in _Large.__struct_fields__]
    if len(body) - sum(memoryview(raw).nbytes for raw in known) <= SMALL_BYTES:
        return
    colons = body.count(b":") - sum(bytes(raw).count(b":") for raw in known)
    if colons > KEYS_MAX:
        raise InvalidRequest(
            f"The body has far too many fields: beside messages, input and tools at most "
            f"{KEYS_MAX:,} are taken, those inside of others included."
        )


def decode_body(body: bytes) -> dict[str, msgspec.Raw]:
    """A body decoded once to ``{key: raw value}``; of duplicate keys the last counts.

    Raises `InvalidRequest` for anything that is not a JSON object in UTF-8.
    """
    if not body.strip():
        raise InvalidRequest("The body is empty: send a JSON object.")
    try:
        if not body.isascii():
            body.decode("utf-8")  # raw values would carry broken text upstream unseen
        if len(body) > SMALL_BYTES:
            _refuse_many_fields(body)
        fields = _DECODER.decode(body)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except msgspec.ValidationError:
        raise InvalidRequest('The body must be a JSON object, for example {"model": …}.') from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        if cut := _half_a_pair(body, str(error)):
            raise InvalidRequest(
                f"The body holds {cut[0].decode()}, one half of a character (an emoji, say, that was "
                "cut in two): send whole characters."
            ) from None
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    return fields


_SHORTENED_BYTES = 65_536
_STRING_BYTES = 1_000
_BEGIN_BYTES = 64
_ESCAPES_MAX = 64
_QUOTES_MAX = 10_000


def shorten(raw: msgspec.Raw) -> tuple[bytes, dict[str, int]]:
    """Valid JSON as it is, but of very long strings, as images are, only the beginning and a mark.

    With it, how long each of these was, by what stands for it; strings with escapes or beyond ASCII
    stay whole, and all behind the first ten thousand quotes. It takes a fraction of what looking
    through the insides of images for a few keys does, or decoding them (``big-bodies`` in bench).
    """
    data = bytes(raw)
    if len(data) < _SHORTENED_BYTES:
        return data, {}
    mark = secrets.token_hex(8).encode()  # no client can write what stands for a string
    lengths: dict[str, int] = {}
    kept: list[bytes] = []
    copied, begin, quote = 0, -1, data.find(b'"')
    for _ in range(_QUOTES_MAX):
        if quote < 0:
            break
        if begin < 0:
            begin = quote + 1
        else:
            run = data[max(begin, quote - _ESCAPES_MAX) : quote]
            escapes = len(run) - len(run.rstrip(b"\\"))
            if escapes == _ESCAPES_MAX:
                break  # nobody writes that: the rest stays whole
            if escapes % 2 == 0:
                if quote - begin > _STRING_BYTES:
                    text = data[begin:quote]
                    if b"\\" not in text and text.isascii():
                        stand_in = b"%b.%b.%d" % (text[:_BEGIN_BYTES], mark, len(lengths))
                        lengths[stand_in.decode()] = len(text)
                        kept += (data[copied:begin], stand_in)
                        copied = quote
                begin = -1
        quote = data.find(b'"', quote + 1)
    return b"".join((*kept, data[copied:])), lengths
