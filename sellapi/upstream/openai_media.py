"""Embeddings and images of OpenAI-compatible providers (wire notes 2 and 3.1)."""

from __future__ import annotations

import array
import base64
import binascii
import sys
from typing import Any

import msgspec
import orjson

from sellapi.upstream.adapter import Answer, Job
from sellapi.upstream.openai_failure import garbage, reported_failure
from sellapi.upstream.openai_reply import (
    ABSENT,
    edit,
    is_null,
    loads,
    public_usage,
    read_usage,
    rename,
)

__all__ = ["decode_embeddings", "decode_images", "pack_floats", "unpack_floats"]


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector] = msgspec.field(default_factory=list)
    model: str | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


def pack_floats(values: list[float]) -> bytes:
    """Little-endian float32 in base64: what the official SDKs ask for and decode."""
    floats = array.array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes())


def unpack_floats(text: bytes) -> list[float]:
    """The numbers of `pack_floats`; raises ValueError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    floats = array.array("f")
    floats.frombytes(raw)  # ValueError when it is no multiple of four
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()


def decode_embeddings(job: Job, body: bytes) -> Answer:
    """Vectors in the order of the inputs and in the encoding the client asked for."""
    try:
        reply = msgspec.json.decode(body, type=_Vectors)
    except msgspec.DecodeError:
        raise _other(body, "embeddings") from None
    if not is_null(reply.error):
        raise reported_failure(loads(bytes(reply.error)), "error_in_200")
    if not reply.data or len(reply.data) != _inputs(job, len(reply.data)):
        raise garbage("another number of embeddings than asked for")
    indexes = [vector.index for vector in reply.data]
    want_text = _field(job, "encoding_format") == "base64"
    as_asked = all((bytes(v.embedding)[:1] == b'"') is want_text for v in reply.data)
    slug = orjson.dumps(job.slug)
    if as_asked and indexes == list(range(len(indexes))):
        out = rename(body, reply.model, slug)
    else:
        out = edit(body, {"model": slug, "data": _rewritten(reply.data, want_text)})
    raw = bytes(reply.usage)
    if (public := public_usage(raw)) is not raw:
        out = edit(out, {"usage": public})
    return Answer(body=out, usage=read_usage(raw))


def _rewritten(vectors: list[_Vector], want_text: bool) -> bytes:
    order = list(vectors)
    if all(v.index is not None for v in vectors):
        order.sort(key=lambda v: v.index or 0)
    items = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (k, _encoded(v.embedding, want_text))
        for k, v in enumerate(order)
    ]
    return b"[" + b",".join(items) + b"]"


def _encoded(raw: msgspec.Raw, want_text: bool) -> bytes:
    data = bytes(raw)
    is_text = data[:1] == b'"'
    if is_text is want_text:
        return data
    try:
        if want_text:
            return b'"' + pack_floats(msgspec.json.decode(data, type=list[float])) + b'"'
        return orjson.dumps(unpack_floats(msgspec.json.decode(data, type=str).encode()))
    except (ValueError, msgspec.DecodeError):
        raise garbage("embeddings that are no numbers") from None


def _inputs(job: Job, unknown: int) -> int:
    """How many inputs the request has: a string or one list of token ids is one."""
    raw = bytes(job.fields.get("input", ABSENT))
    if raw[:1] != b"[":
        return 1
    try:
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return unknown
    return len(items) if items and bytes(items[0])[:1] in (b'"', b"[") else 1


def _field(job: Job, name: str) -> Any:
    raw = bytes(job.fields.get(name, ABSENT))
    return loads(raw) if raw else None


# --- images


def decode_images(job: Job, body: bytes) -> Answer:
    """``{created, data: [{b64_json}]}``; images that came as a URL are named in `image_urls`."""
    try:
        reply = loads(body)
    except ValueError:
        raise _other(body, "an image answer") from None
    if not isinstance(reply, dict):
        raise garbage("no image answer")
    if reply.get("error"):
        raise reported_failure(reply["error"], "error_in_200")
    found = reply.get("data")
    items = [_image(item) for item in found] if isinstance(found, list) else []
    images = [item for item in items if item is not None]
    if not images:
        raise garbage("no image")
    usage = orjson.dumps(reply["usage"]) if isinstance(reply.get("usage"), dict) else b""
    if (public := public_usage(usage)) is not usage:
        body = edit(body, {"usage": public})
    if images != found or not isinstance(reply.get("created"), int):
        body = edit(body, {"created": b"%d" % job.created, "data": orjson.dumps(images)})
    return Answer(
        body=rename(body, None, orjson.dumps(job.slug)) if "model" in reply else body,
        usage=read_usage(usage, images=len(images)),
        images=len(images),
        image_urls=tuple(image["url"] for image in images if "url" in image),
        skipped=len(items) - len(images),
    )


def _image(item: Any) -> dict[str, Any] | None:
    """An entry with either ``b64_json`` (no ``data:`` prefix) or ``url``; None if it has neither."""
    if not isinstance(item, dict):
        return None
    rest = {k: v for k, v in item.items() if k not in ("b64_json", "url")}
    for text in (item.get("b64_json"), item.get("url")):
        if not isinstance(text, str) or not text:
            continue
        head, comma, data = text.partition(",") if text.startswith("data:") else ("", "", text)
        if comma and not head.endswith(";base64"):
            continue
        name = "url" if not comma and text is item.get("url") else "b64_json"
        return {name: data} | rest
    return None


def _other(body: bytes, what: str) -> Exception:
    """What to raise for a body that is not ``what``: the error in it, or garbage."""
    try:
        value = loads(body)
    except ValueError:
        value = None
    if isinstance(value, dict) and value.get("error"):
        return reported_failure(value["error"], "error_in_200")
    return garbage(f"no {what}" if not what.startswith("an ") else f"no {what[3:]}")
