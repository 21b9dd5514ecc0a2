"""Settings that could never do what they were meant for are refused; others are read as meant."""

from __future__ import annotations

import pytest

from sellapi.errors import UsageError
from sellapi.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("trusted_proxies", "localhost, 127.0.0.1", "localhost"),
        ("trusted_proxies", "10.0.0.0/33", "10.0.0.0/33"),
        ("trusted_proxies", "10.0.0.1:80", "10.0.0.1:80"),
        ("cors_origins", "app.example", "app.example"),
        ("cors_origins", "https://app.example/page", "https://app.example/page"),
        ("cors_origins", "https://*.example", "https://*.example"),
        ("cors_origins", "https://a.example https://b.example", "https://a.example https"),
    ],
)
def test_what_can_never_match_is_refused_by_name(name: str, value: str, wrong: str) -> None:
    variable = f"SELLAPI_{name.upper()}"
    with pytest.raises(UsageError, match=variable) as caught:
        Settings.load({"database": "/nowhere/shop.db"}, {variable: value})
    assert wrong in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("trusted_proxies", " 127.0.0.1,10.0.0.5/8 ,::1", ("127.0.0.1", "10.0.0.5/8", "::1")),
        ("trusted_proxies", "", ()),
        (
            "cors_origins",
            "https://App.example/, http://localhost:3000",
            ("https://app.example", "http://localhost:3000"),
        ),
        ("cors_origins", "*", ("*",)),
        ("cors_origins", "null,app-extension://abc", ("null", "app-extension://abc")),
    ],
)
def test_lists_are_read_as_they_were_meant(name: str, value: str, meant: tuple[str, ...]) -> None:
    variable = f"SELLAPI_{name.upper()}"
    settings = Settings.load({"database": "/nowhere/shop.db"}, {variable: value})
    assert getattr(settings, name) == meant
