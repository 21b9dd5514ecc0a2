"""URLs in a chat that a provider inside our network must not fetch itself.

A provider with a private base URL (a vLLM beside the gateway, say) would fetch a stranger's URL from
within that network. So every place of a content part that names something to fetch is found here,
also those of extensions (``video_url``, ``audio_url``), and given what the guard brought instead.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sellapi.upstream.adapter import Media

__all__ = ["inline", "named_urls"]

_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_DATA = re.compile(r"\s*data:", re.IGNORECASE)
_MAYBE_BYTES = ("file_data", "data")
"""Keys whose text is base64 unless it begins with a scheme."""
_DEEPEST = 8


def named_urls(messages: Any) -> dict[str, str]:
    """Each URL that would be fetched, and where it stands first; ``data:`` URLs are none."""
    found: dict[str, str] = {}
    for place, url, _ in _places(messages):
        found.setdefault(url, place)
    return found


def inline(messages: Any, media: Mapping[str, Media]) -> None:
    """Put the fetched files, as ``data:`` URLs, where their URLs stand (in place)."""
    for _, url, put in list(_places(messages)):
        item = media.get(url)
        if item is None:  # on a host unknown here: the provider may know it
            continue
        put(f"data:{item.mime};base64,{base64.b64encode(item.data).decode('ascii')}")


_Place = tuple[str, str, Callable[[str], None]]


def _places(messages: Any) -> Iterator[_Place]:
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, part in enumerate(content if isinstance(content, list) else ()):
            yield from _inside(part, f"messages[{i}].content[{j}]", 0)


def _inside(value: Any, place: str, depth: int) -> Iterator[_Place]:
    items: Any = ()
    if isinstance(value, dict):
        items = ((key, inner, f"{place}.{key}") for key, inner in value.items())
    elif isinstance(value, list):
        items = ((key, inner, f"{place}[{key}]") for key, inner in enumerate(value))
    for key, inner, name in items:
        if isinstance(inner, str):
            if isinstance(key, str) and _is_fetched(key, inner):
                yield name, inner, _Setter(value, key)
        elif depth < _DEEPEST:
            yield from _inside(inner, name, depth + 1)


def _is_fetched(key: str, text: str) -> bool:
    if not text or _DATA.match(text):
        return False
    if key in _MAYBE_BYTES:
        return _SCHEME.match(text) is not None
    return key == "url" or key.endswith("_url")


class _Setter:
    __slots__ = ("_holder", "_key")

    def __init__(self, holder: dict[str, Any], key: str) -> None:
        self._holder = holder
        self._key = key

    def __call__(self, text: str) -> None:
        self._holder[self._key] = text
