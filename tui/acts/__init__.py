"""Every act of the screens, each with the command that does the same."""

from __future__ import annotations

from tui.acts import importing, models, money, offers, people, providers, routes, upkeep
from tui.acts.act import Act

__all__ = ["ACTS", "BY_NAME"]

ACTS: tuple[Act, ...] = (
    *people.ACTS,
    *money.ACTS,
    *models.ACTS,
    *routes.ACTS,
    *providers.ACTS,
    *offers.ACTS,
    *importing.ACTS,
    *upkeep.ACTS,
)
BY_NAME = {act.name: act for act in ACTS}
