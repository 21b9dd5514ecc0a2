"""Bearer keys: minting, recognising and hashing them.

A key is ``sk-sellapi-`` and 43 url-safe characters (32 random bytes). Only its SHA-256 is ever
stored; people later see its prefix and last four characters.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

__all__ = ["PREFIX", "MintedKey", "hash_key", "looks_like_a_key", "mint"]

PREFIX = "sk-sellapi-"
_SHAPE = re.compile(r"sk-sellapi-[A-Za-z0-9_-]{43,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A fresh key; ``secret`` is shown once and then forgotten."""

    secret: str
    digest: bytes
    prefix: str
    last4: str

    def __repr__(self) -> str:  # a secret must not reach a log by way of a repr
        return f"MintedKey({self.prefix}…{self.last4})"


def mint() -> MintedKey:
    """A fresh random key."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return MintedKey(secret, hash_key(secret), secret[: len(PREFIX) + 4], secret[-4:])


def looks_like_a_key(text: str) -> bool:
    """Whether a text has the shape of one of our keys (it may still be unknown)."""
    return _SHAPE.fullmatch(text) is not None


def hash_key(secret: str) -> bytes:
    """The 32 bytes a key is found by."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
