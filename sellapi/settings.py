"""Settings: a flag beats the environment, which beats ``sellapi.toml`` beside the database.

Built once and passed down; never a global. An unknown key is an error that names it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sellapi.errors import UsageError

__all__ = ["FILE_NAME", "PREFIX", "Settings"]

PREFIX = "SELLAPI_"
FILE_NAME = "sellapi.toml"
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s?#@*]+")


class Settings(BaseSettings):
    """Everything an operator may set, as ``SELLAPI_<NAME>`` or a key of ``sellapi.toml``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    database: str = "./sellapi.db"
    """Path of an SQLite file."""
    limits: str = "memory://"
    """Where rate-limit counters live."""
    help_url: str = ""
    """Printed in 401, 402 and 403: where to get keys and credits."""
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    engine: Literal["asyncio", "httpx"] = "asyncio"
    """What carries calls to providers; httpx for proxies that are not http:// and odd platforms."""
    connect_timeout: float = 5.0
    """Seconds to connect to a provider."""
    stream_idle_timeout: float = 300.0
    """Seconds a provider may be silent inside a stream."""
    shutdown_timeout: float = 60.0
    """Seconds running answers get to finish after SIGTERM."""
    head_timeout: float = 15.0
    """Seconds a client has to send a request's head, however it trickles in."""
    body_timeout: float = 120.0
    """Seconds a client has to send a request's body."""
    keep_alive_timeout: float = 75.0
    """Seconds a connection may be idle between two requests."""
    write_stall_timeout: float = 60.0
    """Seconds after which a client is cut that does not read what waits for it."""
    max_connections: int = 8_192
    """Open connections of clients together (fewer where the system allows fewer open files)."""
    max_connections_per_address: int = 2_048
    """Those of one address; addresses in trusted_proxies are not counted."""
    max_body_bytes: int = 32_000_000
    body_memory_bytes: int = 512_000_000
    """All request bodies in memory together; beyond it new ones get 503."""
    debug: bool = False
    """Whether a command that fails by a fault of its own shows the traceback."""
    private_providers: bool = False
    """Whether media URLs may be sent to providers with a private base URL unfetched."""

    @field_validator("cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(v.strip() for v in value.split(",") if v.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """As browsers write them: in lower case, nothing behind the host and port."""
        origins = tuple(origin.lower().removesuffix("/") for origin in value)
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: write for example https://app.example")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise ValueError(
                    f"{network!r} is no address or network: write for example 10.0.0.1 or 10.0.0.0/8"
                ) from None
        return value

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("this version keeps its data in an SQLite file: give a path")
        return value

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, value: str) -> str:
        if value != "memory://":
            raise ValueError("this version counts in memory://; redis:// comes later")
        return value

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: type[BaseSettings], **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` passes: the order of sources is decided there, in one place."""
        del settings_cls
        return (sources["init_settings"],)

    @classmethod
    def load(cls, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from flags (None means not given), the environment and the file.

        Raises `UsageError` naming the key that is unknown or wrong and where it came from.
        """
        environ = os.environ if environ is None else environ
        given = {k: v for k, v in flags.items() if v is not None}
        env = {k[len(PREFIX) :].lower(): v for k, v in environ.items() if k.startswith(PREFIX)}
        database = str(given.get("database") or env.get("database") or "./sellapi.db")
        path = Path(database).parent / FILE_NAME
        file = _read(path)
        for source, values in (("the environment", env), (str(path), file)):
            for key in values:
                if key not in cls.model_fields:
                    name = PREFIX + key.upper() if source == "the environment" else key
                    known = ", ".join(sorted(cls.model_fields))
                    raise UsageError(f"unknown setting {name} in {source}; known are {known}")
        try:
            return cls(**{**file, **env, **given})
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else "?"
            where = "a flag" if key in given else PREFIX + key.upper() if key in env else str(path)
            message = str(first["msg"]).removeprefix("Value error, ")
            raise UsageError(f"setting {key} (from {where}): {message}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
