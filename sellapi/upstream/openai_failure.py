"""What an OpenAI-compatible provider's refusals mean to our customer and to the router.

Statuses follow the contract (section 2) and wire notes 1.8: a fault of the request is told to the
customer in the provider's own words, cleaned; a fault of the operator's account never looks like
one of the customer's key; what may pass is retryable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from sellapi.errors import InvalidRequest, UpstreamFailed
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.clean import clean_message

__all__ = ["garbage", "http_failure", "reported_failure", "retry_after_s", "truncated"]

_DEFAULT_WAIT_S = 5
_MAX_WAIT_S = 86_400
_REQUEST_AT_FAULT = (400, 413, 422)
_KEY_CODES = frozenset(
    {"invalid_api_key", "account_deactivated", "invalid_organization", "authentication_error"}
)
_MONEY_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"}
)
_MODEL_CODES = frozenset({"model_not_found", "deployment_not_found", "not_found_error"})
_STATUS_OF_WORD = {
    "invalid_request_error": 400,
    "bad_request": 400,
    "BadRequestError": 400,
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "content_filter": 400,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "requests": 429,
    "tokens": 429,
    "permission_error": 403,
    "overloaded_error": 529,
}
"""For errors under a 200: the status a ``type`` or ``code`` would have had."""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait from ``retry-after-ms`` or ``retry-after`` (seconds or an HTTP date)."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / scale
        except ValueError:
            continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), _MAX_WAIT_S)
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(moment - time.time(), 0.0), _MAX_WAIT_S)


def http_failure(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
    """What a reply that is not a 2xx means."""
    return _failure(status, _error_of(body), f"status_{status}", retry_after_s(headers))


def reported_failure(error: Any, reason: str = "stream_error") -> UpstreamFailure:
    """What an error inside a 200 means: an ``{"error": …}`` body, or an event of a stream.

    ``error`` is the decoded value of ``error``: an object, a string, anything.
    """
    found = _error_of_value(error)
    status = _status_of(found)
    return _failure(status, found, reason, None)


def garbage(what: str) -> UpstreamFailure:
    """The provider sent something that is no answer of this protocol; ``what`` names it."""
    return UpstreamFailure(
        UpstreamFailed(f"The provider of this model sent {what}. Try again."), reason="garbage"
    )


def truncated() -> UpstreamFailure:
    """The provider's answer ended before it was complete."""
    return UpstreamFailure(
        UpstreamFailed("The provider of this model broke off its answer. Try again."),
        reason="truncated",
    )


def _failure(
    status: int, error: dict[str, Any], reason: str, wait_s: float | None
) -> UpstreamFailure:
    words = {w for k in ("code", "type") if isinstance(w := error.get(k), str)}
    if status == 402 or words & _MONEY_CODES:
        return _operators(
            "The operator's account at the provider of this model has no credit left. This is not "
            "about your credits: tell the operator, or use another model.",
            status,
            reason,
        )
    if status in (401, 403) or words & _KEY_CODES:
        return _operators(
            "The provider of this model refused the gateway's own credentials. This is not about "
            "your key: tell the operator, or use another model.",
            status,
            reason,
            key_refused=True,
        )
    if status in (404, 410) or words & _MODEL_CODES:
        return _operators(
            "The provider of this model does not know it under the configured name. Tell the "
            "operator to check the model's route, or use another model.",
            status,
            reason,
        )
    if status in _REQUEST_AT_FAULT:
        return _request_at_fault(status, error, reason)
    if status == 429:
        wait = max(1, math.ceil(_DEFAULT_WAIT_S if wait_s is None else wait_s))
        return UpstreamFailure(
            UpstreamFailed(
                f"The provider of this model is rate limited. Try again in {wait} s.",
                retry_after=wait,
                should_retry=False if wait > 60 else None,
            ),
            reason=reason,
            status=status,
            retry_after=float(wait) if wait_s is None else wait_s,
        )
    if status in (408, 409) or status >= 500:
        return UpstreamFailure(
            UpstreamFailed(
                "The provider of this model failed. Try again.",
                retry_after=None if wait_s is None else math.ceil(wait_s),
            ),
            reason=reason,
            status=status,
            retry_after=wait_s,
        )
    return _operators(
        f"The provider of this model answered with status {status}, which the gateway did not "
        "expect. Tell the operator to check the provider's base URL.",
        status,
        reason,
    )


def _operators(
    message: str, status: int, reason: str, *, key_refused: bool = False
) -> UpstreamFailure:
    """Trouble only the operator can end; another provider may still answer."""
    return UpstreamFailure(
        UpstreamFailed(message, should_retry=False),
        reason=reason,
        retryable=True,
        key_refused=key_refused,
        status=status,
    )


def _request_at_fault(status: int, error: dict[str, Any], reason: str) -> UpstreamFailure:
    message = clean_message(_text(error.get("message")))
    return UpstreamFailure(
        InvalidRequest(
            message
            or "The provider of this model refused the request without saying why. Check its "
            "parameters against what the model can do.",
            param=_label(error.get("param")),
            code=_label(error.get("code")),
        ),
        reason=reason,
        retryable=False,
        status=status,
    )


def _label(value: Any) -> str | None:
    """A ``param`` or ``code``: a short text, or None; a numeric code says nothing to a customer."""
    return clean_message(value, 100) or None if isinstance(value, str) else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value, default=str).decode("utf-8", "replace")


def _error_of(body: bytes) -> dict[str, Any]:
    """The error object of a refusal's body, as far as there is one."""
    try:
        return _error_of_value(orjson.loads(body[:1_000_000]))
    except ValueError:
        return {}  # an HTML page, or nothing: not for customers


def _error_of_value(value: Any) -> dict[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, str):
        return {"message": value}
    if not isinstance(value, dict):
        return {}
    inner = value.get("error")
    if isinstance(inner, dict | str):
        return _error_of_value(inner)
    if "message" not in value and "detail" in value:  # FastAPI servers (vLLM, LiteLLM, …)
        return {"message": _text(value["detail"])}
    return value


def _status_of(error: dict[str, Any]) -> int:
    """The HTTP status an error under a 200 stands for; 500 when nothing tells."""
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:4])
        if isinstance(value, int) and 400 <= value < 600:
            return value
    for key in ("code", "type"):
        value = error.get(key)
        if isinstance(value, str) and value in _STATUS_OF_WORD:
            return _STATUS_OF_WORD[value]
    return 500
