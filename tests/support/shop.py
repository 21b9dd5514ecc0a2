"""A shop on a real SQLite file, and requests made by hand: what ledger and admin tests stand on."""

import itertools
import json
import time

from sellapi.admin import Admin
from sellapi.admin.setup import fill
from sellapi.domain.pricing import charge
from sellapi.domain.usage import Usage
from sellapi.storage import catalog, ledger
from sellapi.storage.database import Database

_numbers = itertools.count(1)
NOW_MS = 1_795_400_000_000


def open_shop(path, *, env=None, clock=None, database=None):
    """An `Admin` on a database with the default catalog."""
    database = database or Database.create(path)
    admin = Admin(database, actor="tester", via="cli", env=env or {}, clock=clock or time.time)
    fill(admin.users)
    return admin


def quick(database):
    """Durability off: these tests crash nothing."""
    database.raw().execute("PRAGMA synchronous = OFF")
    return database


class Requests:
    """Holds and settlements for one key, as the gateway makes them."""

    def __init__(self, admin, email, slug="openai/gpt-5.4", instance="test"):
        self.database = admin.desk.database
        self.account = admin.users.show(email).id
        keys = admin.keys.list(email).items
        self.key = keys[0].id if keys else admin.keys.create(email).id
        self.slug, self.instance = slug, instance

    def request(self, amount, *, at_ms=NOW_MS):
        """A hold to be placed, by what stands in the database now."""
        with self.database.read() as tx:
            model = catalog.model(tx, self.slug)
            return ledger.HoldRequest(
                request_id=f"req_{next(_numbers):06d}",
                amount=amount,
                account_id=self.account,
                account_version=tx.value(
                    "SELECT version FROM accounts WHERE id = ?", (self.account,)
                ),
                key_id=self.key,
                key_version=tx.value("SELECT version FROM keys WHERE id = ?", (self.key,)),
                catalog_version=tx.catalog_version,
                instance_id=self.instance,
                model=self.slug,
                mode="chat",
                price_id=catalog.price_versions(tx, model["id"])[0]["id"],
                streamed=False,
                bounded=False,
                created_ms=at_ms,
            )

    def hold(self, amount, *, at_ms=NOW_MS):
        """``(request id, what the ledger answered)``."""
        request = self.request(amount, at_ms=at_ms)
        with self.database.transaction() as tx:
            return request.request_id, ledger.hold(tx, request)

    def settle(self, request_id, usage, *, delivered=True, at_ms=NOW_MS):
        """Charge a request for a usage at the price it was held at."""
        with self.database.transaction() as tx:
            price_id = tx.value("SELECT price_id FROM requests WHERE request_id = ?", (request_id,))
            prices = catalog.Prices.from_json(
                json.loads(catalog.price_version(tx, price_id)["prices"])
            )
            result = ledger.settle(
                tx,
                ledger.Settlement(
                    request_id=request_id,
                    charge=charge(prices, usage),
                    usage=json.dumps(usage.buckets()),
                    usage_raw=None,
                    input_tokens=usage.total_input,
                    output_tokens=usage.total_output,
                    images=usage.images,
                    estimated=False,
                    bounded=False,
                    provider="openai",
                    upstream_id="gpt-5.4",
                    finished_ms=at_ms + 500,
                ),
            )
            ledger.mark_delivery(
                tx,
                request_id,
                ledger.Delivery.DELIVERED if delivered else ledger.Delivery.UNDELIVERED,
            )
        return result

    def charge(self, *, tokens=1000, output=100, hold=10_000_000_000, at_ms=NOW_MS):
        """A whole request; returns its id."""
        request_id, held = self.hold(hold, at_ms=at_ms)
        assert isinstance(held, ledger.Held), held
        self.settle(request_id, Usage(input=tokens, output=output), at_ms=at_ms)
        return request_id
