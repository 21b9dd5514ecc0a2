"""Whom we trust: the system's roots and those httpx brings, and what the operator adds."""

from __future__ import annotations

import ssl

import certifi

__all__ = ["tls_context"]


def tls_context(ca_pem: bytes | None = None) -> ssl.SSLContext:
    """A verifying client context. Costs some 20 ms: build once, keep.

    A machine without a certificate store (slim containers) still has certifi's.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_pem is not None:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    return context
