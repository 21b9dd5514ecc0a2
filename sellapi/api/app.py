"""The Sanic application: routes, one error handler, life of the process."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from sanic import Blueprint, HTTPResponse, Request, Sanic
from sanic.exceptions import (
    HeaderExpectationFailed,
    RequestCancelled,
    RequestTimeout,
    SanicException,
    ServiceUnavailable,
)
from sanic.exceptions import (
    MethodNotAllowed as SanicMethodNotAllowed,
)
from sanic.exceptions import (
    NotFound as SanicNotFound,
)
from sanic.exceptions import (
    PayloadTooLarge as SanicPayloadTooLarge,
)
from sanic.handlers import ErrorHandler

from sellapi.api import account, completions, health, models
from sellapi.api.intake import Budget, want_no_body
from sellapi.api.protocol import Gate
from sellapi.api.respond import OurRequest, Pinger, cors_headers, error_response, request_id
from sellapi.bootstrap import Services
from sellapi.errors import (
    ApiError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    StorageError,
)

__all__ = ["create_app"]

log = logging.getLogger(__name__)

_NO_ROUTE = (SanicNotFound, SanicMethodNotAllowed)
_COUNTED = {401, 402, 403, 404, 429}


class _Errors(ErrorHandler):
    """Every error leaves as the contract's JSON; whatever is not ours is told in one sentence."""

    def default(self, request: Request, exception: Exception) -> HTTPResponse:
        if request.method == "OPTIONS" and isinstance(exception, _NO_ROUTE):
            return _preflight(request)
        if isinstance(exception, RequestCancelled):  # the client left: nobody reads an answer
            return HTTPResponse(status=499)
        want_no_body(request)
        error = _as_api_error(request, exception)
        if error.status >= 500:
            cause = exception.__cause__ or exception
            log.log(
                logging.ERROR if isinstance(error, InternalError) else logging.WARNING,
                "%s %s: %s (%s)",
                request_id(request),
                error.status,
                error.message,
                cause.__class__.__name__,
                exc_info=exception if isinstance(error, InternalError) else None,
            )
        if error.status in _COUNTED and hasattr(request.app.ctx, "gateway"):
            request.app.ctx.gateway.stats.rejected(error.type)
        return error_response(request, error)


def _as_api_error(request: Request, error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StorageError):
        return Overloaded("The database is not available right now; try again.", retry_after=2)
    if isinstance(error, SanicNotFound):
        return NotFound(_hint(request.path))
    if isinstance(error, SanicMethodNotAllowed):
        allow = ", ".join(sorted(getattr(error, "allowed_methods", None) or ()))
        told = MethodNotAllowed(
            f"{request.method} is not for this route: use {allow or 'another'}."
        )
        told.headers["allow"] = allow
        return told
    if isinstance(error, SanicPayloadTooLarge):
        return PayloadTooLarge(f"{error}: send less.")
    if isinstance(error, ServiceUnavailable):
        return Overloaded("The answer took too long; try again.", retry_after=2)
    if isinstance(error, RequestTimeout):
        timeout = InvalidRequest("The request did not arrive in time.")
        timeout.status = 408
        timeout.headers["x-should-retry"] = "false"
        return timeout
    if isinstance(error, HeaderExpectationFailed):
        refused = InvalidRequest("The only expectation served is 'Expect: 100-continue'.")
        refused.status = 417
        return refused
    if isinstance(error, SanicException) and 400 <= error.status_code < 500:
        return InvalidRequest("The request is not valid HTTP.")
    return InternalError("Something went wrong here; the operator can look it up by x-request-id.")


def _hint(path: str) -> str:
    if path.startswith("/v1/v1/") or path in (
        "/chat/completions",
        "/embeddings",
        "/images/generations",
        "/models",
    ):
        return f"There is no {path[:100]}: the base_url must end in /v1 (once)."
    return f"There is no {path[:100]}: the API is at /v1, for example POST /v1/chat/completions."


def create_app(services: Services, *, name: str = "sellapi") -> Sanic[Any, Any]:
    """The application over its services; `Services.start` and `stop` are its life."""
    app: Sanic[Any, Any] = Sanic(
        name,
        error_handler=_Errors(),
        request_class=OurRequest,
        configure_logging=False,
        loads=orjson.loads,
        dumps=lambda value: orjson.dumps(value).decode(),
    )
    _configure(app, services)

    v1 = Blueprint.group(
        completions.blueprint, models.blueprint, account.blueprint, url_prefix="/v1"
    )
    app.blueprint(v1)
    app.blueprint(health.blueprint)
    app.before_server_start(_start)
    app.before_server_stop(_stop)
    app.after_server_stop(_close)
    logging.getLogger("sanic.error").addFilter(_is_news)
    return app


def _is_news(record: logging.LogRecord) -> bool:
    """Not that a body was left unread: a GET's always is, and anybody could fill the log with it."""
    return not str(record.msg).endswith(" body not consumed.")


def _configure(app: Sanic[Any, Any], services: Services) -> None:
    settings = services.settings
    app.ctx.services = services
    app.ctx.database = services.database
    app.ctx.cors_origins = settings.cors_origins
    app.ctx.trusted_proxies = settings.trusted_proxies
    app.ctx.max_body_bytes = settings.max_body_bytes
    app.ctx.budget = Budget(settings.body_memory_bytes)
    app.ctx.gate = Gate(settings)
    app.ctx.body_timeout = settings.body_timeout
    app.ctx.pinger = Pinger()
    app.config.update(
        ACCESS_LOG=False,
        FALLBACK_ERROR_FORMAT="json",
        AUTO_EXTEND=False,
        MOTD=False,
        REAL_IP_HEADER=None,
        PROXIES_COUNT=None,
        REQUEST_MAX_SIZE=160_000_000,
        REQUEST_MAX_HEADER_SIZE=16_384,
        REQUEST_TIMEOUT=settings.head_timeout,
        RESPONSE_TIMEOUT=_response_timeout(services),
        KEEP_ALIVE_TIMEOUT=settings.keep_alive_timeout,
        GRACEFUL_TCP_CLOSE_TIMEOUT=settings.shutdown_timeout * 0.9,  # slow readers get their answer
        GRACEFUL_SHUTDOWN_TIMEOUT=settings.shutdown_timeout,
    )


def _response_timeout(services: Services) -> float:
    """Longer than any provider may take to its first byte (each send resets it)."""
    return services.longest_wait_s + 60.0


def _preflight(request: Request) -> HTTPResponse:
    headers = {"x-request-id": request_id(request), "access-control-max-age": "600"}
    origin = request.headers.get("origin")
    if origin is not None:
        headers |= cors_headers(request, origin)
        headers["access-control-allow-methods"] = "GET, POST, OPTIONS"
        headers["access-control-allow-headers"] = request.headers.get(
            "access-control-request-headers", "authorization, content-type"
        )
    return HTTPResponse(status=204, headers=headers)


async def _start(app: Sanic[Any, Any]) -> None:
    services: Services = app.ctx.services
    app.ctx.gateway = await services.start()
    services.spawn(app.ctx.pinger.run())


async def _stop(app: Sanic[Any, Any]) -> None:
    app.ctx.gateway.closing = True


async def _close(app: Sanic[Any, Any]) -> None:
    await app.ctx.services.close()
