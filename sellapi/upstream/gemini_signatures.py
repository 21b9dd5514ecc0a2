"""Thought signatures on their way through OpenAI's shape and back (wire notes 6.6).

Gemini 3 and later attach a signature to the first functionCall of each step and refuse the
conversation when it does not come back. Clients get it where Google's own OpenAI layer puts it,
``extra_content.google.thought_signature``; for clients that drop it, `SignatureStore` remembers it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

__all__ = ["LAST_RESORT", "SignatureStore", "bare_id", "extra_of", "signature_of"]

LAST_RESORT = "skip_thought_signature_validator"
"""What Google documents for a lost signature; it costs quality, so it comes last."""

_LITELLM_MARK = "__thought__"
"""LiteLLM hands signatures out inside the call's id: ``ID__thought__SIGNATURE``."""


def extra_of(signature: str, model: str) -> dict[str, Any]:
    """The ``extra_content`` that carries a signature, and which model gave it.

    Another model refuses it; which one gave it must not hang on this process's memory.
    """
    return {"google": {"thought_signature": signature}, "sellapi": {"model": model}}


def bare_id(identifier: str) -> str:
    """A tool call's id without LiteLLM's suffix."""
    return identifier.partition(_LITELLM_MARK)[0] or identifier


def signature_of(raw: dict[str, Any], model: str) -> str | None:
    """The signature a client's message or tool call carries, in any of the known places.

    None when it says that another model than ``model`` gave it, or when it is no base64.
    """
    extra = _dict(raw.get("extra_content"))
    if _dict(extra.get("sellapi")).get("model", model) != model:
        return None
    google = _dict(extra.get("google"))
    function = _dict(raw.get("function"))
    for holder in (
        google,
        _dict(raw.get("provider_specific_fields")),
        _dict(function.get("provider_specific_fields")),
    ):
        signature = holder.get("thought_signature")
        if isinstance(signature, str) and _is_base64(signature):
            return signature
    identifier = raw.get("id")
    if isinstance(identifier, str):
        signature = identifier.partition(_LITELLM_MARK)[2]
        return signature if _is_base64(signature) else None
    return None


_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}", re.ASCII)


def _is_base64(text: str) -> bool:
    return len(text) % 4 == 0 and _BASE64.fullmatch(text) is not None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class SignatureStore:
    """The latest signatures by (account, tool call id), bounded by count and by characters.

    One process only: another worker, or a restart, falls back on `LAST_RESORT`. Accounts never see
    each other's entries.
    """

    def __init__(self, entries_max: int = 50_000, chars_max: int = 64_000_000) -> None:
        self._entries_max = entries_max
        self._chars_max = chars_max
        self._chars = 0
        self._items: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def put(self, account_tag: str, call_id: str, model: str, signature: str) -> None:
        """Remember the signature a model gave to a call; the oldest entries make room."""
        key = (account_tag, call_id)
        self._forget(key)
        self._items[key] = (model, signature)
        self._chars += len(signature) + len(call_id)
        while len(self._items) > self._entries_max or self._chars > self._chars_max:
            self._forget(next(iter(self._items)))

    def get(self, account_tag: str, call_id: str) -> tuple[str, str] | None:
        """(model, signature) of a call, or None."""
        key = (account_tag, call_id)
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        return found

    def __len__(self) -> int:
        return len(self._items)

    def _forget(self, key: tuple[str, str]) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self._chars -= len(old[1]) + len(key[1])
