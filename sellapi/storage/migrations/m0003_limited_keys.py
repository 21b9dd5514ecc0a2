"""``spent`` and ``held`` of a key are counted only while it has a limit of its own.

Without one nothing is decided by them, and each hold and charge would write the key's row for nothing.
What any key was charged stands in ``daily``, what it holds in the open requests; a key that is given
a limit takes both from there.
"""

from __future__ import annotations

from typing import Any

__all__ = ["apply"]

_COUNTED = """
CREATE TRIGGER keys_counted AFTER UPDATE OF spend_limit ON keys
WHEN (old.spend_limit IS NULL) <> (new.spend_limit IS NULL)
BEGIN
    UPDATE keys SET spent = 0, held = 0 WHERE id = new.id AND spend_limit IS NULL;
    UPDATE keys SET
        spent = (SELECT coalesce(sum(charged), 0) FROM daily
            WHERE account_id = new.account_id AND key_id = new.id),
        held = (SELECT coalesce(sum(hold), 0) FROM requests
            WHERE delivery = 0 AND state = 'held' AND key_id = new.id)
    WHERE id = new.id AND spend_limit IS NOT NULL;
END
"""


def apply(connection: Any) -> None:
    connection.execute("UPDATE keys SET spent = 0, held = 0 WHERE spend_limit IS NULL")
    connection.execute(_COUNTED)
