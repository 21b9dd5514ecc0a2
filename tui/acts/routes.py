"""Acts on a model's routes: which providers answer for it, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sellapi.admin.service import Admin
from sellapi.admin.views import Model, Route
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.acts.models import ask_model
from tui.acts.typed import seconds, whole

__all__ = ["ACTS"]


async def add_route(stage: Stage, at: Context) -> None:
    model = await ask_model(stage, at, "A route for which model?")
    if model is None:
        return
    providers = await stage.fetch(lambda admin: admin.providers.list())

    def act(admin: Admin, v: Values) -> Model:
        return admin.models.route_add(
            model.slug,
            f"{v['provider']}:{v['upstream']}",
            priority=whole("Priority", v["priority"]),
            weight=whole("Weight", v["weight"]),
            timeout_s=seconds(v["timeout"]),
            cost=v["cost"].split(),
        )

    done = await stage.fill(
        FormSpec(
            title=f"Another route for {model.slug}",
            verb="Add",
            fields=(
                Field("provider", "Provider", options=tuple((p.name, p.name) for p in providers),
                      required=True),
                Field("upstream", "Upstream id", model.upstream or "", required=True),
                Field("priority", "Priority", hint="after those there are; lowest is first"),
                Field("weight", "Weight", hint="1; share among equal priorities"),
                Field("timeout", "Timeout", hint="seconds; the provider's"),
                Field("cost", "Our cost", hint="input=2.5 output=15, USD per million"),
            ),
            act=act,
        )
    )  # fmt: skip
    if done is not None:
        stage.done(f"{done.slug} has {len(done.routes)} routes.")


def _left_words(routes: Sequence[Route]) -> str:
    """How many of a model's routes can be called, in words."""
    usable = sum(r.available for r in routes)
    if not usable:
        return "no usable route: nobody answers for it"
    return f"{usable} usable route{'' if usable == 1 else 's'}"


def _route_preview(model: Model) -> Any:
    def preview(admin: Admin, values: Values) -> list[Line]:
        routes = admin.models.show(model.slug).routes
        rest = [r for r in routes if r.target != values["target"]]
        return [
            Line("model", model.slug),
            Line("goes", values["target"]),
            Line("left", _left_words(rest), _left_words(routes)),
        ]

    return preview


async def remove_route(stage: Stage, at: Context) -> None:
    model = await ask_model(stage, at, "Remove a route of which model?")
    if model is None:
        return
    targets = tuple(r.target for r in model.routes)

    def act(admin: Admin, v: Values) -> tuple[str, Model]:
        return v["target"], admin.models.route_remove(model.slug, v["target"])

    done = await stage.fill(
        FormSpec(
            title=f"Remove a route of {model.slug}",
            verb="Remove",
            danger=True,
            fields=(
                Field("target", "Route", at.route, options=tuple((t, t) for t in targets),
                      required=True),
            ),
            preview=_route_preview(model),
            act=act,
        )
    )  # fmt: skip
    if done is not None:
        target, left = done
        stage.done(f"{left.slug} lost the route {target}; it has {_left_words(left.routes)}.")


ACTS = (
    Act("models.route_add", "Add a route", "Another provider answers", "models route", add_route),
    Act(
        "models.route_remove",
        "Remove a route",
        "One that answers no more",
        "models route",
        remove_route,
    ),
)
