"""What a model cannot do or does differently, as data.

A quirk is looked up by the *upstream id* (also for models an operator added by hand): the first
matching row of `TABLE` counts. Adapters read these fields; no module asks for a model by name.
Sources: shared wire notes (1.3, 5.3, 6.4), that is the providers' documentation and the tables of
LiteLLM 1.106, Vercel AI SDK and pydantic-ai 2.68, state 2026-11-22.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Quirks", "quirks_for"]


@dataclass(frozen=True, slots=True)
class Quirks:
    """Properties of a model family. Defaults describe a plain model that takes everything."""

    reasoning: bool = False
    """May think before it answers; its thoughts count as output."""
    hidden_thoughts: bool = False
    """Thinks without showing it: an aborted call is charged by time as well."""
    tokens_per_second: int = 80
    """Upper figure for how fast output tokens come, for aborted calls with hidden thoughts."""
    image_tokens: int = 1_700
    """Most tokens one input image can cost."""
    document_tokens: int = 300_000
    """Most tokens one document or file of unseen size can cost."""


_DEFAULT = Quirks()

TABLE: tuple[tuple[str, Quirks], ...] = ()


@lru_cache(maxsize=4096)
def quirks_for(kind: str, upstream_id: str) -> Quirks:
    """The quirks of an upstream id at a provider kind; the plain defaults when none match."""
    name = f"{kind}/{upstream_id}"
    for pattern, quirks in TABLE:
        if re.match(pattern, name):
            return quirks
    return _DEFAULT
