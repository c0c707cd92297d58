"""A host's tools, kept off the event loop that answers requests.

Who serves does not know what `--tools` does: an `async def` may block, a tool that
calls itself quick may not be, and one may end the process it runs in. On threads,
where `async def` tools get a loop of their own, that is their own business.
"""

from agentloop.core.catalog import Failure
from agentloop.core.routing import Offer
from agentloop.ports import ToolAnswer, ToolCall, ToolServer


class OffLoop:
    """A tool server that can only be called on a thread: neither awaited nor quick."""

    def __init__(self, inner: ToolServer) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)

    @property
    def reports(self) -> tuple[str, ...]:
        """What the last discovery left out."""
        found: tuple[str, ...] = getattr(self._inner, "reports", ())
        return found

    def declared(self) -> tuple[Offer, ...] | None:
        """The catalog when it is known."""
        return self._inner.declared()

    def discover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        """Ask for the catalog."""
        return self._inner.discover(timeout)

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        """Make the call on this thread."""
        return self._inner.call(call)

    def close(self) -> None:
        """Give back what the server holds."""
        self._inner.close()
