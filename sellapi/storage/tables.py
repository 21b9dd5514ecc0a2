"""The tables as peewee models: what the statements of admin, catalog and reports are built from.

The schema itself is the migrations' (STRICT, CHECKs, triggers and partial indexes are theirs to
say); a test holds these declarations to it column by column. The models belong to no database:
`Tx` compiles a query and runs it on its own connection, so several databases and threads may be
open at once. A column that an insert leaves out takes the schema's default.
"""

from __future__ import annotations

from typing import Any

from peewee import AutoField, BlobField, CompositeKey, ForeignKeyField, IntegerField, TextField
from peewee import Model as Table

__all__ = [
    "TABLES",
    "Account",
    "Audit",
    "Daily",
    "DailyModel",
    "Entry",
    "Instance",
    "Key",
    "KeySecret",
    "Minute",
    "Model",
    "Pack",
    "Price",
    "Provider",
    "Rejection",
    "Request",
    "Route",
    "Tier",
    "narrowed",
]


class Tier(Table):
    name = TextField(primary_key=True)
    rpm = IntegerField()
    account_rpm = IntegerField()
    signup_credits = IntegerField()

    class Meta:
        table_name = "tiers"


class Provider(Table):
    id = AutoField()
    name = TextField()
    kind = TextField()
    base_url = TextField()
    api_key_env = TextField(null=True)
    api_key_file = TextField(null=True)
    headers = TextField()
    max_connections = IntegerField()
    timeout_ms = IntegerField()
    proxy = TextField(null=True)
    enabled = IntegerField()
    created_at = IntegerField()

    class Meta:
        table_name = "providers"


class Model(Table):
    id = AutoField()
    slug = TextField()
    name = TextField()
    mode = TextField()
    tier = TextField()
    enabled = IntegerField()
    context_length = IntegerField(null=True)
    max_output = IntegerField(null=True)
    input_modalities = TextField()
    allowed_fields = TextField()
    created_at = IntegerField()

    class Meta:
        table_name = "models"


class Price(Table):
    id = AutoField()
    model = ForeignKeyField(Model)
    effective_at = IntegerField()
    prices = TextField()
    actor = TextField()
    created_at = IntegerField()

    class Meta:
        table_name = "prices"


class Route(Table):
    id = AutoField()
    model = ForeignKeyField(Model)
    provider = ForeignKeyField(Provider)
    upstream_id = TextField()
    priority = IntegerField()
    weight = IntegerField()
    timeout_ms = IntegerField(null=True)
    max_concurrency = IntegerField(null=True)
    retry_on_timeout = IntegerField()
    cost = TextField(null=True)

    class Meta:
        table_name = "routes"


class Pack(Table):
    id = AutoField()
    slug = TextField()
    credits = IntegerField()
    price_micro_usd = IntegerField()
    status = TextField()
    created_at = IntegerField()

    class Meta:
        table_name = "packs"


class Account(Table):
    id = AutoField()
    email = TextField()
    name = TextField()
    tier = TextField()
    status = TextField()
    balance = IntegerField()
    held = IntegerField()
    owed = IntegerField()
    stop_running = IntegerField()
    version = IntegerField()
    created_at = IntegerField()
    last_request = IntegerField(null=True)
    last_entry = IntegerField(null=True)

    class Meta:
        table_name = "accounts"


class Key(Table):
    id = AutoField()
    account = ForeignKeyField(Account)
    name = TextField()
    status = TextField()
    expires_at = IntegerField(null=True)
    models = TextField(null=True)
    ips = TextField(null=True)
    spend_limit = IntegerField(null=True)
    spent = IntegerField()
    held = IntegerField()
    version = IntegerField()
    created_at = IntegerField()
    revoked_at = IntegerField(null=True)

    class Meta:
        table_name = "keys"


class KeySecret(Table):
    digest = BlobField(primary_key=True)
    key = ForeignKeyField(Key)
    prefix = TextField()
    last4 = TextField()
    expires_at = IntegerField(null=True)
    created_at = IntegerField()

    class Meta:
        table_name = "key_secrets"


class Entry(Table):
    id = AutoField()
    account = ForeignKeyField(Account)
    kind = TextField()
    amount = IntegerField()
    owed_change = IntegerField()
    balance_after = IntegerField()
    owed_after = IntegerField()
    key = ForeignKeyField(Key, null=True)
    request_id = TextField(null=True)
    pack = ForeignKeyField(Pack, null=True)
    of_entry = IntegerField(null=True)
    cash_micro_usd = IntegerField()
    reference = TextField(null=True)
    reason = TextField()
    actor = TextField()
    created_ms = IntegerField()
    previous = IntegerField(null=True)

    class Meta:
        table_name = "entries"


class Request(Table):
    id = AutoField()
    request_id = TextField()
    account = ForeignKeyField(Account)
    key = ForeignKeyField(Key)
    instance_id = TextField()
    model = TextField()
    mode = TextField()
    price = ForeignKeyField(Price)
    state = TextField()
    delivery = IntegerField()
    hold = IntegerField()
    charge = IntegerField()
    streamed = IntegerField()
    estimated = IntegerField()
    bounded = IntegerField()
    input_tokens = IntegerField()
    output_tokens = IntegerField()
    images = IntegerField()
    usage = TextField(null=True)
    usage_raw = TextField(null=True)
    image_size = TextField(null=True)
    image_quality = TextField(null=True)
    provider = TextField(null=True)
    upstream_id = TextField(null=True)
    attempts = TextField(null=True)
    cost = IntegerField()
    loss = IntegerField()
    http_status = IntegerField(null=True)
    error = TextField(null=True)
    finish_reason = TextField(null=True)
    retry_of = IntegerField(null=True)
    created_ms = IntegerField()
    first_byte_ms = IntegerField(null=True)
    finished_ms = IntegerField(null=True)
    previous = IntegerField(null=True)

    class Meta:
        table_name = "requests"


class Daily(Table):
    day = IntegerField()
    account = ForeignKeyField(Account)
    key_id = IntegerField()
    model = TextField()
    requests = IntegerField()
    voided = IntegerField()
    input_tokens = IntegerField()
    output_tokens = IntegerField()
    images = IntegerField()
    charged = IntegerField()
    cost = IntegerField()
    loss = IntegerField()

    class Meta:
        table_name = "daily"
        primary_key = CompositeKey("day", "model", "account", "key_id")


class DailyModel(Table):
    day = IntegerField()
    model = TextField()
    requests = IntegerField()
    voided = IntegerField()
    input_tokens = IntegerField()
    output_tokens = IntegerField()
    images = IntegerField()
    charged = IntegerField()
    cost = IntegerField()
    loss = IntegerField()

    class Meta:
        table_name = "daily_models"
        primary_key = CompositeKey("day", "model")


class Minute(Table):
    minute = IntegerField(primary_key=True)
    requests = IntegerField()
    errors = IntegerField()
    tokens = IntegerField()
    charged = IntegerField()
    cost = IntegerField()
    latency_ms_sum = IntegerField()
    latency_ms_max = IntegerField()

    class Meta:
        table_name = "minutes"


class Rejection(Table):
    minute = IntegerField()
    kind = TextField()
    count = IntegerField()

    class Meta:
        table_name = "rejections"
        primary_key = CompositeKey("minute", "kind")


class Instance(Table):
    id = TextField(primary_key=True)
    pid = IntegerField()
    host = TextField()
    started_at = IntegerField()
    status = TextField()
    status_at = IntegerField()

    class Meta:
        table_name = "instances"


class Audit(Table):
    id = AutoField()
    at_ms = IntegerField()
    actor = TextField()
    via = TextField()
    act = TextField()
    target = TextField()
    before = TextField(null=True)
    after = TextField(null=True)

    class Meta:
        table_name = "audit"


TABLES: tuple[type[Table], ...] = (
    *(Tier, Provider, Model, Price, Route, Pack, Account, Key, KeySecret, Entry, Request),
    *(Daily, DailyModel, Minute, Rejection, Instance, Audit),
)


def narrowed(query: Any, *filters: tuple[Any, Any]) -> Any:
    """The query with those of the ``(value, condition)`` filters whose value is given."""
    chosen = [condition for value, condition in filters if value is not None]
    return query.where(*chosen) if chosen else query
