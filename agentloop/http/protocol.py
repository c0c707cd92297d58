"""HTTP as uvicorn speaks it, with refusals in the form of all our others.

What breaks the rules of HTTP itself (two lengths, a broken chunk, a header without
end) never reaches the application: uvicorn refuses it as plain text. Knows the
server only; the application works under any other.
"""

from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentloop.core.catalog import RequestError
from agentloop.http.logs import LOGGER
from agentloop.http.problems import Reporter
from agentloop.ports import Ids

_PROBLEM = "the request is not well-formed HTTP/1.1"


def protocol_of(reporter: Reporter, ids: Ids) -> type[H11Protocol]:
    """The class that uvicorn makes one of for each connection."""

    class Protocol(H11Protocol):
        """A connection whose malformed requests are refused as problems."""

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002 # uvicorn's words
            log_id = ids.new()
            refusal = RequestError("invalid-request", problem=_PROBLEM)
            where = {"path": self._path()}
            response, slug = reporter.response(refusal, where, log_id)
            extra = {"log_id": log_id, "problem": slug, "status": 400}
            LOGGER.info("%s", _PROBLEM, extra=extra)
            with suppress(h11.LocalProtocolError):  # an answer was under way
                self._answer(response.raw_headers, bytes(response.body))
            self.transport.close()

        def _path(self) -> str:
            """The path of the request that is under way, if its head was read."""
            cycle: Any = self.cycle  # None before the first request
            if cycle is None or cycle.response_complete:
                return "/"
            return str(cycle.scope["path"])

        def _answer(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
            head = h11.Response(
                status_code=400,
                headers=[*headers, (b"connection", b"close")],
                reason=b"Bad Request",
            )
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")

    return Protocol
