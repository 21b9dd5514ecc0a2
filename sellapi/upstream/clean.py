"""Foreign error text made fit for customers: no key, host, address, account or request id in it."""

from __future__ import annotations

import re

__all__ = ["clean_message"]

_REMOVED = "[removed]"

# Order matters: the wider thing first, so that no half of it is left over.
_PATTERNS: tuple[re.Pattern[str], ...] = (
    re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>]*[^\s\"'<>.,;:!?)\]}]", re.IGNORECASE),
    re.compile(r"\bBearer\s+[A-Za-z0-9._~+/*=-]{6,}", re.IGNORECASE),
    re.compile(r"\b(?:x-api-key|api[_-]?key|authorization)\s*[=:]\s*\S{6,}", re.IGNORECASE),
    re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,6}"),
    # Keys by their usual prefixes, also half masked ones (sk-proj-****abcd).
    re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_*.\u2022-]{6,}"),
    re.compile(r"\b(?:xai|gsk|hf|r8|pplx|fw|nvapi|key)[-_](?=\S*[0-9*])[A-Za-z0-9_*.-]{6,}"),
    re.compile(r"\bAIza[A-Za-z0-9_*-]{6,}"),
    re.compile(r"\bya29\.[A-Za-z0-9_.-]{6,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9*]{8,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}"),
    # Account, project and request ids.
    re.compile(r"\b(?:org|proj|acct|user|workspace|wrkspc)[-_](?=\w*[0-9])[A-Za-z0-9]{8,}"),
    re.compile(r"\breq(?:uest)?[-_](?=\w*[0-9])[A-Za-z0-9_-]{8,}"),
    re.compile(r"\bprojects/[A-Za-z0-9._-]+"),
    re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
    re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{32,}\b"),
    # Hosts and addresses; only under names that cannot be a parameter path or a model id.
    re.compile(
        r"\b(?:[a-z0-9-]{1,63}\.){1,8}"
        r"(?:com|net|org|io|ai|dev|cloud|internal|local|lan|corp|svc|app|co|us|eu|de|cn|uk)"
        r"(?::[0-9]{1,5})?(?![\w-])",
        re.IGNORECASE,
    ),
    re.compile(r"\blocalhost(?::[0-9]{1,5})?\b", re.IGNORECASE),
    re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?(?![\w.])"),
    re.compile(r"\[::1?\](?::[0-9]{1,5})?"),
    re.compile(r"(?<![\w:])\[?(?:[0-9a-fA-F]{1,4}:){3,7}:?[0-9a-fA-F]{0,4}\]?(?::[0-9]{1,5})?"),
)
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+"
)


def clean_message(text: str, limit: int = 500) -> str:
    """``text`` in one line of at most ``limit`` characters, secrets and places taken out.

    What is taken out: keys, bearer tokens, URLs, host names, IP addresses, e-mail addresses,
    organisation, project and request ids, control and bidirectional characters.
    """
    text = _CONTROL.sub(" ", text[: limit * 4 + 2_000])
    for pattern in _PATTERNS:
        text = pattern.sub(_REMOVED, text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
