"""What Anthropic's refusals mean to our customer and to the router (wire notes 5.5, 5.7).

A fault of the request is told in Anthropic's own words, cleaned; a fault of the operator's account
never looks like one of the customer's key; what may pass is retryable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from sellapi.errors import InvalidRequest, UpstreamFailed
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.clean import clean_message
from sellapi.upstream.openai_failure import retry_after_s

__all__ = ["http_failure", "stream_failure"]

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_OPERATORS_MONEY = re.compile(
    r"credit balance is too low|specified API usage limits|usage limit.*regain access",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(r"prompt is too long|exceeds? (the )?context (limit|window)", re.IGNORECASE)
_DEFAULT_WAIT_S = 30


def http_failure(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
    """What a reply that is not a 2xx means."""
    try:
        reply = orjson.loads(body[:1_000_000])
    except ValueError:
        reply = None  # an HTML page, or nothing: not for customers
    error = reply.get("error") if isinstance(reply, dict) else None
    return _failure(status, error, f"status_{status}", retry_after_s(headers))


def stream_failure(error: Any) -> UpstreamFailure:
    """An error under HTTP 200: an event of a stream, or a whole body; its type tells the status."""
    kind = error.get("type") if isinstance(error, dict) else None
    return _failure(_STATUS.get(str(kind), 500), error, "stream_error", None)


def _failure(status: int, error: Any, reason: str, wait_s: float | None) -> UpstreamFailure:
    message = error.get("message") if isinstance(error, dict) else None
    message = message if isinstance(message, str) else ""
    if status in (400, 413, 422) and not _OPERATORS_MONEY.search(message):
        return _fault_of_request(status, message, error, reason)
    if status in (400, 401, 402, 403):
        return UpstreamFailure(
            UpstreamFailed(
                "The provider of this model refused the gateway's own account. This is not about "
                "your key or credits: tell the operator, or use another model.",
                should_retry=False,
            ),
            reason=reason,
            key_refused=True,
            status=status,
        )
    if status == 404:
        return UpstreamFailure(
            UpstreamFailed(
                "The provider does not know this model any more. Tell the operator, or use "
                "another model.",
                should_retry=False,
            ),
            reason=reason,
            status=status,
        )
    if status == 429:
        # A spend cap comes without Retry-After (wire notes 5.5); the contract wants one.
        wait = _DEFAULT_WAIT_S if wait_s is None else max(1, math.ceil(wait_s))
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
    overloaded = "is overloaded" if status in (503, 529) else "failed"
    return UpstreamFailure(
        UpstreamFailed(
            f"The provider of this model {overloaded}. Try again.",
            retry_after=None if wait_s is None else math.ceil(wait_s),
        ),
        reason=reason,
        retryable=status in (408, 409) or status >= 500,
        status=status,
        retry_after=wait_s,
    )


def _fault_of_request(status: int, message: str, error: Any, reason: str) -> UpstreamFailure:
    details = error.get("details") if isinstance(error, dict) else None
    code = details.get("error_code") if isinstance(details, dict) else None
    if _TOO_LONG.search(message):
        code = "context_length_exceeded"  # OpenAI's word, which clients act on
    if not message:
        message = (
            "The request is too large for the provider of this model."
            if status == 413
            else "The provider of this model refused the request without saying why."
        )
    return UpstreamFailure(
        InvalidRequest(
            clean_message(message), code=clean_message(code, 100) if isinstance(code, str) else None
        ),
        reason=reason,
        retryable=False,
        status=status,
    )
