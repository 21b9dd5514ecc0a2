"""Users, keys, packs and credits: what an operator does, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from sellapi.admin import to_json
from sellapi.domain.keys import hash_key
from sellapi.errors import Refused, UsageError
from sellapi.storage import ledger
from sellapi.storage.snapshot import read_caller
from tests.support.shop import Requests, open_shop, quick

ROOT = Path(__file__).parents[2]
MICRO = 1_000_000
ANN = "ann@shop.test"


@pytest.fixture
def admin(tmp_path):
    admin = open_shop(tmp_path / "shop.db")
    quick(admin.desk.database)
    admin.users.add(ANN)
    return admin


def test_a_new_user_starts_free_with_ten_thousand_credits_from_the_ledger(admin):
    user = admin.users.add(" Bob@Shop.Test ", name="Bob")
    assert to_json(user) | {"id": 0, "created_at": ""} == {
        "id": 0,
        "email": "bob@shop.test",
        "name": "Bob",
        "tier": "free",
        "status": "active",
        "balance": "10000",
        "held": "0",
        "available": "10000",
        "owed": "0",
        "active_keys": 0,
        "created_at": "",
    }
    assert [e.kind for e in admin.ledger.entries(user="bob@shop.test")] == ["signup"]
    with pytest.raises(Refused, match="already"):
        admin.users.add("BOB@shop.test")


@pytest.mark.parametrize(
    "email", ["", "ann", "a b@c.de", "a@b@c", "a\x1b@b.de", "a\n@b.de", "<a@b>"]
)
def test_words_that_are_no_email_are_refused(admin, email):
    with pytest.raises(UsageError):
        admin.users.add(email)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\x07b", "a\nb", "a\u202eb", "x" * 201])
def test_no_name_has_control_characters_or_no_end(admin, name):
    key = admin.keys.create(ANN)
    price = {"input": "1"}
    for act in (
        lambda: admin.users.add("bob@shop.test", name=name),
        lambda: admin.users.set(ANN, name=name),
        lambda: admin.keys.create(ANN, name=name),
        lambda: admin.keys.set(key.id, name=name),
        lambda: admin.models.add("x/y", mode="chat", name=name, prices=price),
        lambda: admin.models.set("openai/gpt-5.4", name=name),
        lambda: admin.providers.add(name, kind="openai", api_key_env="K"),
        lambda: admin.packs.add(name, amount="1", price_usd="1"),
    ):
        with pytest.raises(UsageError) as refused:
            act()
        assert name not in str(refused.value)


def test_a_sold_pack_makes_pro_and_its_refund_ends_it_with_the_last_pack(admin):
    first = admin.packs.sell(ANN, "starter", paid_usd="4.50")
    second = admin.packs.sell(ANN, "plus")
    assert (first.tier, first.paid_usd, second.balance) == ("pro", 4_500_000, 2_510_000 * MICRO)
    one = admin.packs.refund(first.entry)
    assert (one.tier, one.cash_usd) == ("pro", -4_500_000)
    assert admin.packs.refund(second.entry).tier == "free"
    assert admin.packs.refund(second.entry).repeated
    assert admin.users.show(ANN).balance == 10_000 * MICRO


def test_a_repeated_reference_changes_nothing_and_another_act_with_it_is_refused(admin):
    first = admin.packs.sell(ANN, "starter", reference="inv-1")
    admin.credits.grant(ANN, "1", reason="between")
    again = admin.packs.sell(ANN, "starter", reference="inv-1")
    assert again.repeated
    assert (again.entry, again.balance) == (first.entry, first.balance)
    admin.users.add("bob@shop.test")
    for other in (
        lambda: admin.packs.sell(ANN, "plus", reference="inv-1"),
        lambda: admin.packs.sell(ANN, "starter", paid_usd="1", reference="inv-1"),
        lambda: admin.packs.sell("bob@shop.test", "starter", reference="inv-1"),
        lambda: admin.credits.grant(ANN, "500000", reason="x", reference="inv-1"),
    ):
        with pytest.raises(Refused, match="inv-1"):
            other()
    admin.packs.retire("starter")
    assert admin.packs.sell(ANN, "starter", reference="inv-1").repeated
    assert len(admin.audit.list(act="packs.sell")) == 1


def test_two_processes_that_sell_the_same_reference_at_once_credit_once(admin):
    path = str(admin.desk.database.path)
    script = (
        "import sys\n"
        "from sellapi.admin import Admin\n"
        "from sellapi.storage.database import Database\n"
        "a = Admin(Database.open(sys.argv[1]), actor='p', via='cli', env={})\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(20):\n"
        "    print(a.packs.sell('ann@shop.test', 'starter', reference=f'r{n}').repeated)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    for one, other in zip(*answers, strict=True):
        assert sorted((one, other)) == ["False", "True"]
    assert admin.users.show(ANN).balance == (10_000 + 20 * 500_000) * MICRO
    assert admin.ledger.verify().ok


def test_deduct_takes_what_is_available_and_records_the_rest_only_when_told(admin):
    with pytest.raises(Refused, match="--allow-debt"):
        admin.credits.deduct(ANN, "10000.000001", reason="x")
    act = admin.credits.deduct(ANN, "10000.000001", reason="x", allow_debt=True, reference="d1")
    assert (act.balance, act.owed, act.amount) == (0, 1, -10_000 * MICRO)
    again = admin.credits.deduct(ANN, "10000.000001", reason="x", allow_debt=True, reference="d1")
    assert (again.repeated, again.entry) == (True, act.entry)
    paid = admin.credits.grant(ANN, "1", reason="pays")
    assert (paid.balance, paid.owed) == (MICRO - 1, 0)


def test_a_request_is_refunded_once_also_after_it_was_pruned(admin):
    request_id = Requests(admin, ANN).charge()
    with admin.desk.database.transaction() as tx:
        tx.execute("DELETE FROM requests")
    assert admin.credits.refund(request_id).balance == 10_000 * MICRO
    assert admin.credits.refund(request_id).repeated


def test_a_request_that_cannot_be_refunded_is_told_from_one_that_never_was(admin):
    with pytest.raises(Refused, match="there is no request req_unknown"):
        admin.credits.refund("req_unknown")
    requests = Requests(admin, ANN)
    running, _ = requests.hold(MICRO)
    with pytest.raises(Refused, match="still runs"):
        admin.credits.refund(running)
    with admin.desk.database.transaction() as tx:
        ledger.void(tx, running, now_ms=1)
    with pytest.raises(Refused, match="was not charged"):
        admin.credits.refund(running)


def test_what_a_refund_would_undo_is_told_only_while_it_can(admin):
    requests = Requests(admin, ANN)
    request_id = requests.charge()
    assert admin.credits.charge(f" {request_id} ").request_id == request_id
    done = admin.credits.refund(request_id)
    with pytest.raises(Refused, match=f"was refunded before: entry {done.entry}"):
        admin.credits.charge(request_id)
    running, _ = requests.hold(MICRO)
    with pytest.raises(Refused, match="still runs"):
        admin.credits.charge(running)
    sale = admin.packs.sell(ANN, "starter")
    assert admin.packs.sale(sale.entry).cash_usd == sale.paid_usd
    with pytest.raises(Refused, match="is no sale"):
        admin.packs.sale(done.entry)
    done = admin.packs.refund(sale.entry, allow_debt=True)
    with pytest.raises(Refused, match=f"was refunded before: entry {done.entry}"):
        admin.packs.sale(sale.entry)


def test_what_would_be_pruned_is_counted_as_it_is_removed(admin):
    admin.users.add("bob@shop.test")
    ann, bob = Requests(admin, ANN), Requests(admin, "bob@shop.test")
    ann.charge()
    bob.hold(MICRO)
    bob.charge(hold=MICRO)
    admin.desk.clock = lambda: 1_900_000_000
    would = admin.requests.prunable(older_than="1d")
    assert (would.requests, would.stayed) == (1, 2)
    assert admin.requests.prune(older_than="1d") == would
    assert admin.requests.prunable(older_than="1d").requests == 0


def test_a_statement_adds_up_from_opening_to_closing(admin):
    clock = [1_795_400_000]
    admin.desk.clock = lambda: clock[0]
    admin.users.add("eve@shop.test")
    clock[0] += 86_400
    admin.credits.grant("eve@shop.test", "5", reason="a")
    clock[0] += 86_400
    admin.credits.deduct("eve@shop.test", "2.5", reason="b")
    whole = admin.credits.statement("eve@shop.test")
    assert (whole.opening_balance, whole.closing_balance) == (0, 10_002_500_000)
    day = admin.credits.statement("eve@shop.test", since="2026-11-24", until="2026-11-24")
    assert [e.kind for e in day.entries] == ["grant"]
    assert (day.opening_balance, day.closing_balance) == (10_000 * MICRO, 10_005 * MICRO)


def test_a_key_is_stored_as_its_hash_only_and_shown_once(admin):
    key = admin.keys.create(ANN, name="laptop", expires="30d", limit="5", ips="10.1.2.3/8")
    assert key.key not in repr(key)
    assert "key" not in to_json(admin.keys.show(key.id))
    assert to_json(admin.keys.show(key.id))["ips"] == ["10.0.0.0/8"]
    admin.desk.database.raw().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    stored = admin.desk.database.path.read_bytes()
    assert key.key.encode() not in stored
    assert hash_key(key.key) in stored


def test_a_rotated_key_keeps_its_row_and_its_old_secret_for_the_grace(admin):
    old = admin.keys.create(ANN, limit="5")
    new = admin.keys.rotate(old.id, grace="1h")
    with admin.desk.database.read() as tx:
        was, now = (read_caller(tx, hash_key(k.key)) for k in (old, new))
    assert was.key_id == now.key_id == old.id
    assert was.secret_expires_at == pytest.approx(admin.desk.now() + 3600, abs=5)
    assert now.secret_expires_at is None
    assert admin.keys.show(old.id).limit == 5 * MICRO
    admin.keys.revoke(old.id)
    with pytest.raises(Refused, match="revoked"):
        admin.keys.rotate(old.id)


def test_every_change_of_a_key_or_its_user_makes_the_servers_copy_stale(admin):
    requests = Requests(admin, ANN)
    for change in (
        lambda: admin.keys.set(requests.key, limit="9"),
        lambda: admin.keys.set(requests.key, models="openai/gpt-5.4"),
        lambda: admin.keys.set(requests.key, expires="1d"),
        lambda: admin.keys.set(requests.key, ips="10.0.0.1"),
        lambda: admin.keys.rotate(requests.key),
        lambda: admin.users.suspend(ANN, now=True),
        lambda: admin.users.resume(ANN),
        lambda: admin.packs.sell(ANN, "starter"),
        lambda: admin.models.set("openai/gpt-5.4", prices={"input": "9"}),
        lambda: admin.models.disable("openai/gpt-5.4"),
        lambda: admin.tiers.set("free", rpm=1),
        lambda: admin.providers.set("openai", enabled=False),
        lambda: admin.keys.revoke(requests.key),
    ):
        with admin.desk.database.read() as tx:
            before = tx.execute(
                "SELECT c.version, a.version, k.version FROM catalog_state c, accounts a, keys k"
            ).fetchone()
        change()
        with admin.desk.database.read() as tx:
            after = tx.execute(
                "SELECT c.version, a.version, k.version FROM catalog_state c, accounts a, keys k"
            ).fetchone()
        assert before != after


def test_a_refund_of_no_sale_says_whether_there_is_such_an_entry(admin):
    (signup,) = admin.ledger.entries(user=ANN)
    with pytest.raises(Refused, match="is no sale"):
        admin.packs.refund(signup.id)
    with pytest.raises(Refused, match="there is no entry 99"):
        admin.packs.refund(99)


@pytest.mark.parametrize("limit", ["rpm", "account_rpm"])
def test_a_tier_on_which_nobody_could_call_is_refused(admin, limit):
    with pytest.raises(UsageError, match="nobody"):
        admin.tiers.set("free", **{limit: 0})
    assert getattr(admin.tiers.set("free", **{limit: 1}), limit) == 1
    assert admin.tiers.set("free", signup_credits="0").signup_credits == 0


def test_a_keys_own_limit_counts_what_it_spent_and_holds(admin):
    admin.keys.create(ANN, limit="5")
    requests = Requests(admin, ANN)
    assert isinstance(requests.hold(3 * MICRO)[1], ledger.Held)
    short = requests.hold(3 * MICRO)[1]
    assert isinstance(short, ledger.Short)
    assert short.key_left == 2 * MICRO


def test_a_key_that_is_given_a_limit_later_has_spent_and_holds_what_it_did_before(admin):
    requests = Requests(admin, ANN)
    charged = admin.requests.show(requests.charge(tokens=10, output=1, hold=MICRO)).request.charge
    running, _ = requests.hold(3 * MICRO)
    for limit in ("none", "5", "none", "6"):
        key = admin.keys.set(requests.key, limit=limit)
        assert (key.spent, key.held) == (charged, 3 * MICRO)
        assert admin.keys.list(ANN).items == (key,)
        assert admin.ledger.verify().ok
    short = requests.hold(3 * MICRO)[1]
    assert short.key_left == 3 * MICRO - charged
    admin.keys.set(requests.key, limit="none")
    assert isinstance(requests.hold(3 * MICRO)[1], ledger.Held)
    admin.keys.set(requests.key, limit="7")
    with admin.desk.database.transaction() as tx:
        ledger.void(tx, running, now_ms=1)
    assert admin.keys.show(requests.key).held == 3 * MICRO
    found = admin.ledger.verify()
    assert found.ok, found.difference


def test_a_deleted_user_is_forgotten_but_the_ledger_is_not(admin):
    key = admin.keys.create(ANN)
    admin.credits.grant(ANN, "1", reason="gift")
    user = admin.users.delete(ANN)
    assert (user.status, user.active_keys) == ("deleted", 0)
    assert admin.keys.show(key.id).status == "revoked"
    with pytest.raises(Refused):
        admin.users.show(ANN)
    with pytest.raises(Refused, match="deleted"):
        admin.users.resume(str(user.id))
    assert admin.ledger.verify().ok
    raw = admin.desk.database.raw()
    dump = "\n".join(line for line in raw.iterdump() if "INSERT" in line)
    assert ANN not in dump


def test_no_user_can_have_the_name_that_a_deleted_one_gets(admin):
    first = admin.users.show(ANN)
    admin.users.add(f"deleted-{first.id}@invalid")
    gone = admin.users.delete(ANN)
    assert gone.status == "deleted"
    with pytest.raises(UsageError, match="no e-mail address"):
        admin.users.add(gone.email)


def test_users_are_paged_by_keyset_in_every_order(admin):
    for number in range(25):
        admin.users.add(f"u{number:02d}@shop.test")
        if number % 3:
            admin.credits.grant(f"u{number:02d}@shop.test", str(number), reason="x")
    for sort in ("id", "email", "balance", "created"):
        for descending in (False, True):
            seen, after = [], None
            while True:
                page = admin.users.list(sort=sort, descending=descending, after=after, limit=7)
                seen += [u.id for u in page.items]
                after = page.next
                if after is None:
                    break
            whole = admin.users.list(sort=sort, descending=descending, limit=100)
            assert seen == [u.id for u in whole.items]
            assert len(set(seen)) == 26
    assert len(admin.users.list(search="U1").items) == 10


def test_an_act_that_fails_leaves_no_trace_and_one_that_succeeds_leaves_one_row(admin):
    rows = len(admin.audit.list())
    with pytest.raises(Refused):
        admin.packs.sell(ANN, "no-such-pack")
    assert len(admin.audit.list()) == rows
    admin.users.set(ANN, tier="pro")
    latest = admin.audit.list()[0]
    assert (latest.actor, latest.via, latest.act) == ("tester", "cli", "users.set")
    assert (latest.before, latest.after) == ({"tier": "free"}, {"tier": "pro"})
    assert ANN in latest.target


def test_the_audit_tells_credits_prices_and_times_as_every_other_document_does(admin):
    admin.credits.grant(ANN, "12.5", reason="a gift")
    admin.packs.add("tiny", amount="1000", price_usd="0.02")
    admin.keys.create(ANN, expires="2099-01-01", limit="250")
    admin.models.set("openai/gpt-5.4", prices={"input": "2.75"})
    told = {row.act: row for row in admin.audit.list()}
    assert told["credits.grant"].before == {"balance": "10000", "owed": "0"}
    assert told["credits.grant"].after["balance"] == "10012.5"
    assert told["packs.add"].after == {"credits": "1000", "price_usd": "0.02"}
    key = told["keys.create"].after
    assert (key["spend_limit"], key["expires_at"]) == ("250", "2099-01-01T00:00:00Z")
    priced = told["models.set"]
    assert (priced.before["prices"]["input"], priced.after["prices"]["input"]) == ("2.5", "2.75")
    assert priced.after["prices"]["long_context"] == 272_000


def test_the_audit_tells_yes_and_no_and_moments_in_words(admin):
    admin.desk.clock = lambda: 1_795_400_000
    admin.providers.set("openai", enabled=False)
    admin.models.route_add("openai/gpt-5.4", "gemini:large")
    admin.requests.prune(older_than="2d")
    told = {row.act: row for row in admin.audit.list()}
    switched = told["providers.set"]
    assert (switched.before["enabled"], switched.after["enabled"]) == (True, False)
    assert told["models.route_add"].after["retry_on_timeout"] is False
    assert told["requests.prune"].after == {"before": "2026-11-21T02:13:20Z", "removed": 0}


def test_no_field_of_the_audit_is_json_inside_a_string(admin):
    key = admin.keys.create(ANN, models="openai/gpt-5.4,openai/gpt-5.4-nano", ips="10.0.0.0/8")
    admin.keys.set(key.id, models="none")
    admin.providers.set("openai", headers=["x-title=shop"])
    admin.models.set("openai/gpt-5.4", modalities="text,image", allow_fields="service_tier")
    admin.models.route_add("openai/gpt-5.4", "gemini:large", cost=["input=1"])
    told = {row.act: row for row in admin.audit.list()}
    assert told["keys.create"].after["models"] == ["openai/gpt-5.4", "openai/gpt-5.4-nano"]
    assert told["keys.create"].after["ips"] == ["10.0.0.0/8"]
    assert told["keys.set"].after["models"] is None
    assert told["providers.set"].after["headers"] == {"x-title": "shop"}
    assert told["models.set"].after["input_modalities"] == ["text", "image"]
    assert told["models.route_add"].after["cost"] == {"input": "1"}
    fields = [
        v
        for row in told.values()
        for side in (row.before, row.after)
        if side
        for v in side.values()
    ]
    assert [v for v in fields if isinstance(v, str) and v[:1] in ("[", "{")] == []
