"""Embeddings and pictures of the demo provider: made from a hash of the input, nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from sellapi.upstream.openai_media import pack_floats

__all__ = ["embeddings", "images", "png"]

_DIMENSIONS = 1536
_LARGE_DIMENSIONS = 3072
_MAX_IMAGES = 10
_MAX_SIDE = 512
_DEFAULT_SIDE = 256


def embeddings(request: Mapping[str, Any]) -> dict[str, Any]:
    """One unit vector per input; raises ValueError when there is none."""
    inputs = _inputs(request.get("input"))
    usual = _LARGE_DIMENSIONS if "large" in str(request.get("model")) else _DIMENSIONS
    size = max(1, min(int(request.get("dimensions") or usual), _LARGE_DIMENSIONS))
    as_text = request.get("encoding_format") == "base64"
    data: list[dict[str, Any]] = []
    tokens = 0
    for index, item in enumerate(inputs):
        vector = _vector(repr(item).encode("utf-8", "replace"), size)
        shown: Any = pack_floats(vector).decode() if as_text else vector
        data.append({"object": "embedding", "index": index, "embedding": shown})
        tokens += len(item) if isinstance(item, list) else -(-len(item.encode()) // 4)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.get("model"), "usage": usage}


def _inputs(value: Any) -> list[str | list[int]]:
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, str | list) and item for item in value):
            return value
    raise ValueError("input must be a text, texts, token ids or lists of them, none of them empty")


def _vector(seed: bytes, size: int) -> list[float]:
    raw = hashlib.shake_256(seed).digest(2 * size)
    values = [v / 32_768 for v in struct.unpack(f"<{size}h", raw)]
    length = math.sqrt(sum(v * v for v in values)) or 1.0
    return [round(v / length, 8) for v in values]


def images(request: Mapping[str, Any], created: int) -> dict[str, Any]:
    """``n`` pictures in the colours of the prompt; raises ValueError without a prompt."""
    prompt = request.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("prompt must be a text")
    count = max(1, min(int(request.get("n") or 1), _MAX_IMAGES))
    width, height = _size(request.get("size"))
    data = [
        {"b64_json": base64.b64encode(png(f"{prompt}#{k}", width, height)).decode()}
        for k in range(count)
    ]
    tokens = -(-len(prompt.encode("utf-8", "replace")) // 4)
    drawn = 272 * count
    usage = {
        "input_tokens": tokens,
        "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
        "output_tokens": drawn,
        "total_tokens": tokens + drawn,
    }
    return {"created": created, "data": data, "usage": usage}


def _size(value: Any) -> tuple[int, int]:
    """The asked shape, scaled down to what is quick to draw."""
    width, by, height = str(value or "").partition("x")
    if not (by and width.isdecimal() and height.isdecimal() and len(width + height) < 10):
        return _DEFAULT_SIDE, _DEFAULT_SIDE
    w, h = max(16, int(width)), max(16, int(height))
    scale = min(1.0, _MAX_SIDE / max(w, h))
    return max(16, int(w * scale)), max(16, int(h * scale))


def png(seed: str, width: int, height: int) -> bytes:
    """A sky, a sun and a sea as a PNG of 8-bit RGB, coloured by ``seed``."""
    mix = hashlib.sha256(seed.encode("utf-8", "replace")).digest()
    sky, glow, sea, sun = mix[0:3], mix[3:6], mix[6:9], bytes((255, 200 + mix[9] % 56, mix[10]))
    horizon = height * (50 + mix[11] % 25) // 100
    radius = max(4, min(width, height) // (6 + mix[12] % 4))
    x0 = width * (20 + mix[13] % 60) // 100
    rows = []
    for y in range(height):
        if y < horizon:
            line = _blend(sky, glow, y, horizon) * width
            reach = math.isqrt(max(0, radius * radius - (y - horizon) ** 2))
            left, right = max(0, x0 - reach), min(width, x0 + reach)
            line = line[: 3 * left] + sun * (right - left) + line[3 * right :]
        else:
            line = _blend(sea, bytes(3), y - horizon, 2 * (height - horizon)) * width
        rows.append(b"\0" + line)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(rows), 6)
    parts = (_part(b"IHDR", head), _part(b"IDAT", pixels), _part(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _blend(a: bytes, b: bytes, step: int, steps: int) -> bytes:
    return bytes((p * (steps - step) + q * step) // steps for p, q in zip(a, b, strict=True))


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
