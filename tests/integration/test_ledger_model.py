"""Random interleavings of acts and requests agree with a simple model, and verify holds after each."""

import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sellapi.domain.credits import format_credits
from sellapi.domain.usage import Usage
from sellapi.errors import Refused
from sellapi.storage import ledger
from tests.support.shop import NOW_MS, Requests, open_shop, quick

MICRO = 1_000_000
PACK = 500_000 * MICRO
PER_INPUT = 250_000  # microcredits of one input token of openai/gpt-5.4
amounts = st.integers(1, 30_000 * MICRO)


class Shop(RuleBasedStateMachine):
    """One account. The model: balance, owed, open holds, spent; all integers."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.admin = open_shop(f"{self.folder.name}/shop.db")
        quick(self.admin.desk.database)
        self.admin.users.add("ann@shop.test")
        self.requests = Requests(self.admin, "ann@shop.test")
        self.balance, self.owed, self.spent = 10_000 * MICRO, 0, 0
        self.open, self.swept, self.sales, self.charged = {}, {}, [], {}

    def teardown(self):
        self.admin.desk.database.close()
        self.folder.cleanup()

    @property
    def available(self):
        return self.balance - sum(self.open.values())

    def _credit(self, amount):
        paid = min(self.owed, amount)
        self.owed -= paid
        self.balance += amount - paid

    @rule(amount=amounts)
    def grant(self, amount):
        self.admin.credits.grant("ann@shop.test", format_credits(amount), reason="gift")
        self._credit(amount)

    @rule(amount=amounts, debt=st.booleans())
    def deduct(self, amount, debt):
        fits = amount <= self.available
        try:
            self.admin.credits.deduct(
                "ann@shop.test", format_credits(amount), reason="x", allow_debt=debt
            )
        except Refused:
            assert not fits
            assert not debt
            return
        assert fits or debt
        taken = min(amount, self.available)
        self.balance -= taken
        self.owed += amount - taken

    @rule()
    def sell(self):
        self.sales.append(self.admin.packs.sell("ann@shop.test", "starter").entry)
        self._credit(PACK)

    @precondition(lambda self: self.sales)
    @rule(debt=st.booleans())
    def refund_sale(self, debt):
        fits = self.available >= PACK
        try:
            done = self.admin.packs.refund(self.sales[0], allow_debt=debt)
        except Refused:
            assert not fits
            assert not debt
            return
        assert not done.repeated
        self.sales.pop(0)
        taken = min(PACK, self.available)
        self.balance -= taken
        self.owed += PACK - taken

    @rule(amount=st.integers(0, 30_000 * MICRO))
    def hold(self, amount):
        request_id, result = self.requests.hold(amount)
        if self.owed == 0 and amount <= self.available:
            assert isinstance(result, ledger.Held)
            self.open[request_id] = amount
        else:
            assert isinstance(result, ledger.Short)

    @precondition(lambda self: self.open or self.swept)
    @rule(data=st.data(), tokens=st.integers(0, 200_000))
    def settle(self, data, tokens):
        request_id = data.draw(st.sampled_from(sorted(self.open | self.swept)))
        held = self.open.pop(request_id, 0)
        self.swept.pop(request_id, None)
        charge = tokens * PER_INPUT
        paid = min(charge, self.available)  # its own hold is free again already
        assert held == 0 or paid >= min(charge, held)
        self.requests.settle(request_id, Usage(input=tokens))
        self.balance -= paid
        self.owed += charge - paid
        self.spent += charge
        if charge:
            self.charged[request_id] = charge
        assert self.requests.settle(request_id, Usage(input=tokens)).repeated

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def void(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.open)))
        with self.admin.desk.database.transaction() as tx:
            assert ledger.void(tx, request_id, now_ms=NOW_MS)
            assert not ledger.void(tx, request_id, now_ms=NOW_MS)
        del self.open[request_id]

    @rule()
    def sweep(self):
        with self.admin.desk.database.transaction() as tx:
            assert ledger.sweep(tx, "test", now_ms=NOW_MS) == len(self.open)
        self.swept |= self.open
        self.open = {}

    @precondition(lambda self: self.charged)
    @rule()
    def refund_request(self):
        request_id, charge = self.charged.popitem()
        assert not self.admin.credits.refund(request_id).repeated
        assert self.admin.credits.refund(request_id).repeated
        self._credit(charge)

    @invariant()
    def the_account_is_as_the_model_says(self):
        user = self.admin.users.show("ann@shop.test")
        assert (user.balance, user.held, user.owed) == (
            self.balance,
            sum(self.open.values()),
            self.owed,
        )
        assert user.tier == ("pro" if self.sales else "free")
        assert self.admin.keys.show(self.requests.key).spent == self.spent

    @invariant()
    def the_ledger_verifies(self):
        found = self.admin.ledger.verify()
        assert found.ok, found.difference
        assert found.open_holds == len(self.open)


TestShop = Shop.TestCase
TestShop.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
