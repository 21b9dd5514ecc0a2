"""What the operator's acts return: frozen views, and their JSON.

Amounts are integers with a unit in their type: `Credits` (microcredits), `Usd` (USD 1e-6), `TimeS`
and `TimeMs` (unix time). `to_json` renders credits and dollars as decimal strings and times as
ISO 8601 in UTC, so that CLI and TUI never format an amount by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from sellapi.admin.words import moment
from sellapi.domain.credits import format_credits, format_usd

__all__ = [
    "AuditRow",
    "BackupResult",
    "ChargeStep",
    "Check",
    "Credits",
    "DbCheck",
    "Entry",
    "ImportChange",
    "ImportPlan",
    "InitResult",
    "Key",
    "LedgerAct",
    "Minute",
    "Model",
    "NewKey",
    "Pack",
    "Page",
    "PriceVersion",
    "Provider",
    "ProviderTest",
    "Pruned",
    "Receipt",
    "RequestRow",
    "Route",
    "Sale",
    "Server",
    "Statement",
    "Status",
    "Tier",
    "TimeMs",
    "TimeS",
    "Today",
    "TopRow",
    "UsageReport",
    "UsageRow",
    "Usd",
    "User",
    "UserDetail",
    "Verified",
    "iso",
    "to_json",
]

Credits = Annotated[int, "credits"]
"""Microcredits."""
Usd = Annotated[int, "usd"]
"""USD 1e-6."""
TimeS = Annotated[int, "s"]
"""Unix seconds."""
TimeMs = Annotated[int, "ms"]
"""Unix milliseconds."""

T = TypeVar("T")


# -- users and keys ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    id: int
    email: str
    name: str
    tier: str
    status: str
    """active, suspended or deleted."""
    balance: Credits
    held: Credits
    available: Credits
    owed: Credits
    active_keys: int
    created_at: TimeS


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. ``status``: active, expired or revoked."""

    id: int
    user: str
    user_id: int
    name: str
    status: str
    prefix: str
    last4: str
    expires_at: TimeS | None
    models: tuple[str, ...] | None
    """The only models it may call; None: all."""
    ips: tuple[str, ...] | None
    """The only networks it may call from; None: any."""
    limit: Credits | None
    spent: Credits
    held: Credits
    old_secret_until: TimeS | None
    """Until when the secret before the last rotation still works."""
    created_at: TimeS
    revoked_at: TimeS | None


@dataclass(frozen=True, slots=True)
class NewKey(Key):
    """A key with its secret, this once."""

    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class UserDetail:
    """One user's page."""

    user: User
    keys: tuple[Key, ...]
    packs_bought: int
    """Unrefunded ones."""
    cash: Usd
    charged_30d: Credits
    requests_30d: int
    last_request_at: TimeMs | None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a keyset listing; pass ``next`` as ``after`` to go on, None at the end."""

    items: tuple[T, ...]
    next: tuple[Any, int] | None


# -- shop --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pack:
    slug: str
    credits: Credits
    price_usd: Usd
    status: str
    """active or retired."""
    created_at: TimeS


@dataclass(frozen=True, slots=True)
class Tier:
    name: str
    rpm: int
    account_rpm: int
    signup_credits: Credits


@dataclass(frozen=True, slots=True)
class Sale:
    """A pack sold. Figures are those right after the sale, also when it is ``repeated``."""

    user: str
    pack: str
    credits: Credits
    paid_usd: Usd
    balance: Credits
    owed: Credits
    tier: str
    entry: int
    reference: str | None
    repeated: bool


@dataclass(frozen=True, slots=True)
class LedgerAct:
    """A grant, deduction or refund. ``amount`` is signed; ``owed_change`` what became owed."""

    user: str
    kind: str
    amount: Credits
    owed_change: Credits
    balance: Credits
    owed: Credits
    tier: str
    entry: int
    of_entry: int | None
    request_id: str | None
    cash_usd: Usd
    reference: str | None
    reason: str
    repeated: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One ledger entry."""

    id: int
    user: str
    user_id: int
    kind: str
    amount: Credits
    owed_change: Credits
    balance_after: Credits
    owed_after: Credits
    key_id: int | None
    request_id: str | None
    pack: str | None
    of_entry: int | None
    cash_usd: Usd
    reference: str | None
    reason: str
    actor: str
    at: TimeMs


@dataclass(frozen=True, slots=True)
class Statement:
    """A user's ledger over a time: opening + sum of amounts = closing."""

    user: str
    since: TimeMs | None
    until: TimeMs | None
    opening_balance: Credits
    closing_balance: Credits
    opening_owed: Credits
    closing_owed: Credits
    totals: Mapping[str, Credits]
    """Sum of amounts by kind."""
    entries: tuple[Entry, ...]


# -- catalog -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    kind: str
    base_url: str
    api_key_env: str | None
    api_key_file: str | None
    headers: Mapping[str, str]
    max_connections: int
    timeout_s: float
    proxy: str | None
    enabled: bool
    has_key: bool
    """Whether the key is where the provider says it is, seen from this process."""
    available: bool
    """What the running server last wrote; enabled and has_key when none runs."""
    state: str
    """In words: ready, no key, disabled, cooling down, …"""
    models: int
    """How many models are routed to it."""
    in_flight: int = 0
    """Calls the running server has open."""
    cooling_s: int = 0
    """How long the server rests the route that failed last; 0 when none rests."""
    latency_ms: float | None = None
    """To the first byte, of the slowest route, as the server last wrote it."""
    key_refused: bool = False
    """Whether the provider answers the server that our key is no good."""
    proxy_wants: str | None = None
    """What `sellapi serve` lacks to go over its proxy: every call is refused until then."""
    broken: bool = False
    """Whether the server cannot set it up, by its base URL or proxy, and calls others only."""
    hints: tuple[str, ...] = ()
    """Things that look odd but were accepted."""
    created_at: TimeS = 0


@dataclass(frozen=True, slots=True)
class ProviderTest:
    name: str
    ok: bool
    model: str
    latency_ms: int
    message: str


@dataclass(frozen=True, slots=True)
class Route:
    provider: str
    upstream: str
    priority: int
    weight: int
    timeout_s: float | None
    max_concurrency: int | None
    retry_on_timeout: bool
    cost: Mapping[str, Any] | None
    available: bool

    @property
    def target(self) -> str:
        """``PROVIDER:UPSTREAM-ID``, as acts take it."""
        return f"{self.provider}:{self.upstream}"


@dataclass(frozen=True, slots=True)
class PriceVersion:
    id: int
    effective_at: TimeS
    prices: Mapping[str, Any]
    """Decimal strings: USD per million tokens, USD per image."""
    actor: str
    created_at: TimeS


@dataclass(frozen=True, slots=True)
class Model:
    slug: str
    name: str
    mode: str
    tier: str
    enabled: bool
    available: bool
    """Listed and callable: enabled, priced, and a route whose provider is usable."""
    why_not: str | None
    """Why it is not available."""
    provider: str | None
    upstream: str | None
    prices: Mapping[str, Any]
    scheduled: tuple[PriceVersion, ...]
    routes: tuple[Route, ...]
    context_length: int | None
    max_output: int | None
    input_modalities: tuple[str, ...]
    allowed_fields: tuple[str, ...]
    margin_pct: int | None
    """Margin of input+output list price over the first route's cost, in percent; None: unknown."""
    created_at: TimeS


@dataclass(frozen=True, slots=True)
class ImportChange:
    """One line of an import's diff. ``act``: add, price; skip where the note says why."""

    act: str
    slug: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    note: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What `apply` needs; opaque."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    source: str
    """openrouter or litellm."""
    provider: str | None
    changes: tuple[ImportChange, ...]
    unchanged: int
    skipped: int
    """Listed ones that are left alone."""
    refused: tuple[ImportChange, ...] = ()
    """Those of them that would be changes, but cannot be made."""
    applied: bool = False


# -- reports -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UsageRow:
    group: str
    requests: int
    voided: int
    input_tokens: int
    output_tokens: int
    images: int
    charged: Credits
    cost: Credits
    loss: Credits
    margin: Credits


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Whole UTC days. ``charged`` is what requests cost customers, ``cash_usd`` what came in."""

    since: TimeS
    by: str
    rows: tuple[UsageRow, ...]
    total: UsageRow
    refunded: Credits
    granted: Credits
    cash_usd: Usd
    liability: Credits
    owed: Credits


@dataclass(frozen=True, slots=True)
class RequestRow:
    id: int
    request_id: str
    at: TimeMs
    user: str
    user_id: int
    key_id: int
    model: str
    mode: str
    state: str
    """held, settled, voided or swept."""
    delivery: str
    """pending, delivered or undelivered."""
    streamed: bool
    input_tokens: int
    output_tokens: int
    images: int
    hold: Credits
    charge: Credits
    cost: Credits
    loss: Credits
    estimated: bool
    bounded: bool
    provider: str | None
    upstream: str | None
    http_status: int | None
    error: str | None
    finish_reason: str | None
    first_byte_ms: int | None
    """From the request to the first byte."""
    duration_ms: int | None
    refunded: bool = False


@dataclass(frozen=True, slots=True)
class ChargeStep:
    """One line of a charge's arithmetic: count x price / per."""

    bucket: str
    count: int
    price_usd: Usd
    per: int
    credits: str
    """Exact decimal credits, before the one rounding of the sum."""


@dataclass(frozen=True, slots=True)
class Receipt:
    request: RequestRow
    usage: Mapping[str, int]
    usage_raw: Any
    price_version: PriceVersion | None
    long_context: bool
    arithmetic: tuple[ChargeStep, ...]
    recomputed: Credits
    entries: tuple[Entry, ...]
    attempts: Any


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of traffic; ``at`` is its start. ``rejections`` by kind (401, 429, …)."""

    at: TimeS
    requests: int
    errors: int
    tokens: int
    charged: Credits
    cost: Credits
    latency_ms_avg: int
    latency_ms_max: int
    rejections: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TopRow:
    """``user_id``: whose row it is, where it is a user's or a key's."""

    name: str
    user_id: int | None
    requests: int
    tokens: int
    charged: Credits
    cost: Credits
    margin: Credits


@dataclass(frozen=True, slots=True)
class Today:
    """Today's figures (UTC) and the standing of the whole shop."""

    requests: int
    voided: int
    tokens: int
    charged: Credits
    cost: Credits
    loss: Credits
    margin: Credits
    cash_usd: Usd
    liability: Credits
    held: Credits
    owed: Credits
    open_holds: int
    users: int


# -- upkeep ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """What `ledger verify` found; ``difference`` names the first one."""

    ok: bool
    accounts: int
    entries: int
    open_holds: int
    requests: int
    head: str
    difference: str | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: int
    at: TimeMs
    actor: str
    via: str
    act: str
    target: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Server:
    """A server process as its row says. ``status`` is what it writes once a second."""

    id: str
    pid: int
    host: str
    alive: bool
    started_at: TimeS
    status_at: TimeS
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    database: str
    schema: int
    size_bytes: int
    wal_bytes: int
    servers: tuple[Server, ...]
    models: int
    models_available: int
    providers: tuple[Provider, ...]
    today: Today


@dataclass(frozen=True, slots=True)
class Check:
    """One of doctor's checks; ``mend`` says how to put it right ("" when ok)."""

    name: str
    ok: bool
    detail: str
    mend: str


@dataclass(frozen=True, slots=True)
class InitResult:
    database: str
    created: bool
    models: int
    packs: int


@dataclass(frozen=True, slots=True)
class DbCheck:
    ok: bool
    schema: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackupResult:
    """A backup written or restored, and the ledger's head in it."""

    file: str
    size_bytes: int
    schema: int
    accounts: int
    entries: int
    head: str
    kept: str | None = None
    """Where the database before the restore was kept."""
    unrecorded: str | None = None
    """Why the audit does not have what was done; None when it has."""


@dataclass(frozen=True, slots=True)
class Pruned:
    requests: int
    before: TimeMs
    stayed: int
    """Older ones that stayed: they run, or are newer than one of their account that does."""


# -- rendering ---------------------------------------------------------------------------------


def iso(seconds: float) -> str:
    """``2026-11-23T04:05:06Z`` (milliseconds only when there are any)."""
    at = moment(seconds)
    text = at.isoformat(timespec="milliseconds" if at.microsecond else "seconds")
    return text.replace("+00:00", "Z")


_UNITS: dict[str, Callable[[int], str]] = {
    "credits": format_credits,
    "usd": format_usd,
    "s": iso,
    "ms": lambda ms: iso(ms / 1000),
}


@lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _unit(hint: Any) -> str | None:
    """The unit an annotation carries, through ``X | None`` and ``Mapping[str, X]``."""
    if get_origin(hint) is Annotated:
        return str(hint.__metadata__[0])
    for inner in get_args(hint):
        unit = _unit(inner)
        if unit:
            return unit
    return None


def _render(value: Any, unit: str | None) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, Mapping):
        return {str(k): _render(v, unit) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_render(v, unit) for v in value]
    if isinstance(value, int) and not isinstance(value, bool) and unit:
        return _UNITS[unit](value)
    return value


def to_json(view: Any) -> Any:
    """A view (or a sequence of views) as JSON-ready values with stable field names."""
    if isinstance(view, (tuple, list)):
        return [to_json(item) for item in view]
    if not is_dataclass(view) or isinstance(view, type):
        return view
    hints = _hints(type(view))
    return {
        f.name: _render(getattr(view, f.name), _unit(hints[f.name]))
        for f in fields(view)
        if f.name != "data"
    }
