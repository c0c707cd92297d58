"""Conformance kits: does what a host wrote keep the promises of a port?

    from agentloop.testing.conformance import StoreConformance

    def test_our_store():
        StoreConformance(make_store).check()

or `agentloop conformance store myapp.stores:make_store`. Needs no extra.
"""

from agentloop.testing.conformance.kit import (
    BrokenPromiseError,
    Check,
    Outcome,
    Report,
    StoreConformance,
)

__all__ = ["BrokenPromiseError", "Check", "Outcome", "Report", "StoreConformance"]
