"""The registry: links in step with the catalog, whatever one provider is like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sellapi.domain.catalog import Provider
from sellapi.upstream.client import Engine, EngineOptions
from sellapi.upstream.demo import DemoEngine
from sellapi.upstream.registry import Registry

GOOD = Provider(1, "good", "openai", "https://good.test/v1")
BAD = Provider(2, "bad", "openai", "https://bad.test/v1", proxy="http://me:hush@proxy.test:1")


def engine(provider: Provider, options: EngineOptions) -> Engine:
    if options.proxy is not None:
        raise ValueError(f"no such proxy: {options.proxy}")
    del provider
    return DemoEngine()


def test_a_provider_that_cannot_be_set_up_is_left_out_told_once_and_the_others_are_there():
    registry = Registry(engine)
    assert registry.sync([BAD, GOOD]) == [(BAD, "ValueError")]
    assert registry.sync([BAD, GOOD]) == []
    assert [link.provider for link in registry.links()] == [GOOD]
    assert (registry.usable(GOOD), registry.usable(BAD)) == (True, False)
    assert registry.broken() == [BAD]
    with pytest.raises(KeyError):
        registry.link(BAD)


def test_a_mended_provider_is_called_again():
    registry = Registry(engine)
    registry.sync([BAD, GOOD])
    mended = replace(BAD, proxy=None)
    registry.sync([mended, GOOD])
    assert (registry.usable(mended), registry.broken()) == (True, [])
    assert registry.sync([BAD, GOOD]) == [(BAD, "ValueError")]
    assert not registry.usable(BAD)


@pytest.mark.parametrize(
    ("base_url", "native"),
    [
        ("https://api.openai.com/v1", True),
        ("https://shop.openai.azure.com/openai/v1", True),
        ("https://shop.services.ai.azure.com/openai/v1", True),
        ("https://openrouter.ai/api/v1", False),
        ("https://api.openai.com.evil.test/v1", False),
        ("https://openai.azure.com.evil.test/v1", False),
    ],
)
def test_openais_own_refusals_hold_at_openai_and_azure(base_url: str, native: bool):
    provider = replace(GOOD, base_url=base_url)
    registry = Registry(engine)
    registry.sync([provider])
    assert registry.link(provider).native is native


def test_a_base_url_that_is_none_breaks_its_provider_only():
    registry = Registry(engine)
    registry.sync([replace(GOOD, id=3, name="odd", base_url="http://[nowhere"), GOOD])
    assert [provider.name for provider in registry.broken()] == ["odd"]
    assert registry.usable(GOOD)
