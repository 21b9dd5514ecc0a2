"""Content parts of a client's chat messages: text, images, audio, files, in typed pieces."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import orjson

from sellapi.errors import InvalidRequest

__all__ = [
    "AudioPart",
    "FilePart",
    "ImagePart",
    "JsonObject",
    "Part",
    "TextPart",
    "decode_data_url",
    "exact_dumps",
    "exact_loads",
    "parse_parts",
    "refuse",
]

JsonObject = dict[str, Any]

_LONG = re.compile(rb"[0-9]{19}")


def exact_loads(data: bytes) -> Any:
    """JSON with every digit of its integers: orjson makes floats of those beyond 64 bits.

    Raises ValueError.
    """
    value = orjson.loads(data)
    if _LONG.search(data):
        with suppress(ValueError, RecursionError):  # thousands of digits, hundreds of levels
            return msgspec.json.decode(data)
    return value


def exact_dumps(value: Any) -> bytes:
    """JSON of anything `exact_loads` returned; raises TypeError where it is nested too deeply."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        if "64-bit" not in str(error):
            raise
        return msgspec.json.encode(value)


def refuse(message: str, param: str) -> InvalidRequest:
    """A 400 that names the field."""
    return InvalidRequest(message, param=param)


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text, possibly empty. ``cache_control`` is the extension many clients use, unchecked."""

    text: str
    cache_control: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image: either ``url`` (http, https or another scheme) or ``mime`` and base64 ``data``.

    ``mime`` is lower case, without parameters, ``image/jpg`` already corrected; "" when unknown.
    """

    param: str
    url: str | None = None
    mime: str = ""
    data: str = ""
    detail: str | None = None
    cache_control: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    """``input_audio``: base64 ``data`` and its format (wav, mp3)."""

    param: str
    data: str
    format: str


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file: either ``url`` or ``mime`` and base64 ``data``; a ``file_id`` was refused already.

    ``mime`` comes from the data URL, else the file name, else the first bytes; "" when unknown.
    """

    param: str
    url: str | None = None
    mime: str = ""
    data: str = ""
    filename: str | None = None
    cache_control: JsonObject | None = None


Part = TextPart | ImagePart | AudioPart | FilePart


def parse_parts(content: Any, param: str) -> tuple[Part, ...]:
    """The parts of a message's content, a string being one text part and null none."""
    param = f"{param}.content"
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list):
        raise refuse("'content' must be a string or a list of parts.", param)
    return tuple(_part(item, f"{param}[{index}]") for index, item in enumerate(content))


def _part(item: Any, param: str) -> Part:
    if isinstance(item, str):
        return TextPart(item)
    if not isinstance(item, dict):
        raise refuse("A content part must be an object.", param)
    cache = item.get("cache_control")
    cache = cache if isinstance(cache, dict) else None
    kind = item.get("type")
    if kind in ("text", "refusal"):
        text = item.get(kind)
        if not isinstance(text, str):
            raise refuse(f"A {kind} part needs its {kind!r} as a string.", f"{param}.{kind}")
        return TextPart(text, cache)
    if kind == "image_url":
        return _image(item, f"{param}.image_url", cache)
    if kind == "input_audio":
        audio = item.get("input_audio")
        if not isinstance(audio, dict) or not isinstance(audio.get("data"), str):
            raise refuse("An input_audio part needs 'data' and 'format'.", f"{param}.input_audio")
        return AudioPart(f"{param}.input_audio", audio["data"], str(audio.get("format") or ""))
    if kind == "file":
        return _file(item, f"{param}.file", cache)
    raise refuse(f"Content parts of type {kind!r} are not known.", f"{param}.type")


def _image(item: JsonObject, param: str, cache: JsonObject | None) -> ImagePart:
    image = item.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url:
        raise refuse("An image_url part needs its 'url'.", f"{param}.url")
    detail = image.get("detail") if isinstance(image, dict) else None
    if url[:5].lower() != "data:":
        return ImagePart(param, url=url.strip(), detail=detail, cache_control=cache)
    mime, data = decode_data_url(url, f"{param}.url")
    # Whatever the client calls it: many say PNG of every image, and Anthropic answers that with 400.
    mime = _sniff(data) or mime
    return ImagePart(param, mime=mime, data=data, detail=detail, cache_control=cache)


_EXTENSIONS = {
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "xml": "application/xml",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}


def _file(item: JsonObject, param: str, cache: JsonObject | None) -> FilePart:
    file = item.get("file")
    if not isinstance(file, dict):
        raise refuse("A file part needs its 'file'.", param)
    if file.get("file_id") is not None:
        raise refuse(
            "Files cannot be named by 'file_id' here: send the bytes in 'file_data'.",
            f"{param}.file_id",
        )
    data = file.get("file_data")
    if not isinstance(data, str) or not data:
        raise refuse("A file part needs 'file_data' (a data: URL or base64).", f"{param}.file_data")
    name = file.get("filename")
    name = name if isinstance(name, str) and name else None
    if data[:8].lower().startswith(("http://", "https://")):
        mime = _mime_of_name(name or data.partition("?")[0])
        return FilePart(param, url=data.strip(), mime=mime, filename=name, cache_control=cache)
    if data[:5].lower() == "data:":
        mime, data = decode_data_url(data, f"{param}.file_data")
    else:
        mime, data = "", _checked_base64(data, f"{param}.file_data")
    if mime in ("", "application/octet-stream"):
        mime = _sniff(data) or _mime_of_name(name)
    elif mime.startswith("image/"):
        mime = _sniff(data) or mime
    return FilePart(param, mime=mime, data=data, filename=name, cache_control=cache)


def _mime_of_name(name: str | None) -> str:
    return _EXTENSIONS.get((name or "").rpartition(".")[2].lower(), "")


_MAGIC = (
    ("JVBERi0", "application/pdf"),
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
)


def _sniff(data: str) -> str:
    """The type that the first bytes of a base64 text tell; "" when they tell none."""
    return next((mime for start, mime in _MAGIC if data.startswith(start)), "")


_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)


def _checked_base64(data: str, param: str) -> str:
    """Standard base64, padded; URL-safe letters, line breaks and lost padding are mended."""
    if not _BASE64.fullmatch(data) or len(data) % 4:
        data = "".join(data.split()).translate(str.maketrans("-_", "+/")).rstrip("=")
        data += "=" * (-len(data) % 4)
        if not _BASE64.fullmatch(data) or len(data.rstrip("=")) % 4 == 1:
            raise refuse("The data is not valid base64.", param)
    if not data:
        raise refuse("The data is empty.", param)
    return data


def decode_data_url(url: str, param: str) -> tuple[str, str]:
    """(mime, base64) of a ``data:`` URL; mime lower case, without parameters, "" when absent.

    Percent-encoded data is turned into base64. Raises `InvalidRequest`.
    """
    head, comma, data = url[5:].partition(",")
    if not comma:
        raise refuse("The data: URL has no comma.", param)
    mime, *parameters = (piece.strip().lower() for piece in head.split(";"))
    mime = "image/jpeg" if mime == "image/jpg" else mime
    if "base64" in parameters:
        if "%" in data:
            data = unquote_to_bytes(data).decode("latin-1")
        return mime, _checked_base64(data, param)
    return mime, base64.b64encode(unquote_to_bytes(data)).decode("ascii")
