"""Every error a caller acts on.

The tree::

    SellapiError
    ├── ApiError                what an API client is told: HTTP status + wire ``type``
    │   ├── InvalidRequest          400 invalid_request_error   (``param``, optional ``code``)
    │   │   ├── MethodNotAllowed    405
    │   │   ├── PayloadTooLarge     413
    │   │   └── UnsupportedMedia    415
    │   ├── InvalidApiKey           401 invalid_api_key
    │   ├── InsufficientCredits     402 insufficient_credits
    │   ├── TierRestricted          403 tier_restricted
    │   ├── ModelNotFound           404 model_not_found
    │   ├── NotFound                404 not_found
    │   ├── RateLimited             429 rate_limit_exceeded     (``retry_after``)
    │   ├── InternalError           500 internal_error
    │   ├── UpstreamFailed          502 upstream_error          (``retry_after`` when it is known)
    │   ├── Overloaded              503 overloaded              (``retry_after``)
    │   └── UpstreamTimeout         504 upstream_timeout
    ├── Refused                 an operator's act that was refused (CLI exit 1, TUI toast)
    ├── UsageError              an operator's words that make no sense (CLI exit 2)
    └── StorageError            the database cannot do it now
        ├── DatabaseMissing         no file there: run ``init``
        ├── SchemaMismatch          older or newer than this program
        └── DatabaseUnavailable     busy, full, read-only, corrupt

Messages are written for the person who reads them and say what to do next. They never hold a
secret, a provider's host or a stack trace.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ApiError",
    "DatabaseMissing",
    "DatabaseUnavailable",
    "InsufficientCredits",
    "InternalError",
    "InvalidApiKey",
    "InvalidRequest",
    "MethodNotAllowed",
    "ModelNotFound",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "RateLimited",
    "Refused",
    "SchemaMismatch",
    "SellapiError",
    "StorageError",
    "TierRestricted",
    "UnsupportedMedia",
    "UpstreamFailed",
    "UpstreamTimeout",
    "UsageError",
]


class SellapiError(Exception):
    """Root of all errors a caller acts on; ``str(error)`` is the message for the reader."""


class ApiError(SellapiError):
    """An error answered over HTTP as ``{"error": {message, type, param, code}}``.

    ``headers`` are extra reply headers (``Retry-After``, ``x-should-retry``, rate headers).
    """

    status: int = 500
    type: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        should_retry: bool | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.type
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, int(retry_after)))
        if should_retry is not None:
            self.headers["x-should-retry"] = "true" if should_retry else "false"

    def body(self) -> dict[str, Any]:
        """The wire body, OpenAI's error shape."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class MethodNotAllowed(InvalidRequest):
    status = 405


class PayloadTooLarge(InvalidRequest):
    status = 413


class UnsupportedMedia(InvalidRequest):
    status = 415


class InvalidApiKey(ApiError):
    status = 401
    type = "invalid_api_key"


class InsufficientCredits(ApiError):
    status = 402
    type = "insufficient_credits"


class TierRestricted(ApiError):
    status = 403
    type = "tier_restricted"


class ModelNotFound(ApiError):
    status = 404
    type = "model_not_found"


class NotFound(ApiError):
    status = 404
    type = "not_found"


class RateLimited(ApiError):
    status = 429
    type = "rate_limit_exceeded"


class InternalError(ApiError):
    status = 500
    type = "internal_error"


class UpstreamFailed(ApiError):
    status = 502
    type = "upstream_error"


class Overloaded(ApiError):
    status = 503
    type = "overloaded"


class UpstreamTimeout(ApiError):
    status = 504
    type = "upstream_timeout"


class Refused(SellapiError):
    """An operator's act that was refused; the message says why and what would be accepted."""


class UsageError(SellapiError):
    """Words that make no sense: an unknown option value, a malformed amount."""


class StorageError(SellapiError):
    """The database cannot do what was asked of it now."""


class DatabaseMissing(StorageError):
    """There is no database at the configured place."""


class SchemaMismatch(StorageError):
    """The database's schema is older or newer than this program."""


class DatabaseUnavailable(StorageError):
    """Busy, locked, full, read-only or corrupt; the message says which."""
