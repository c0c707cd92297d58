"""The contract over HTTP: an ASGI app over either face, and a server for it.

`create_app` makes an app that can be mounted under any prefix;
`agentloop.http.serve` runs one with a worker inside. Both need the extra `http`,
which is loaded when they are used.
"""

from typing import TYPE_CHECKING, Any

from agentloop.http.auth import Authenticate, Principal, fixed_tokens
from agentloop.http.logs import JsonFormatter, configure_logging, log_run_event
from agentloop.http.options import HttpOptions
from agentloop.ports import require

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from agentloop.http.calls import Face

__all__ = [
    "Authenticate",
    "HttpOptions",
    "JsonFormatter",
    "Principal",
    "configure_logging",
    "create_app",
    "fixed_tokens",
    "log_run_event",
]


def create_app(loop: "Face", authenticate: Authenticate, **choices: Any) -> "Starlette":
    """An ASGI app that answers as the contract says.

    Mount it under any prefix, or serve it as it is. It drives nothing: have a
    worker of the loop run in this process or in another.

    Args:
        loop: an `AgentLoop` or an `AsyncAgentLoop`. The blocking calls of the
            former run on threads of the app's own.
        authenticate: from a bearer token to a `Principal`, a `Scope` (which may do
            everything), or None. Plain functions run on a thread.
        choices: the fields of `HttpOptions`.

    Raises:
        MissingExtraError: the extra `http` is not installed.
    """
    require("starlette", "http")
    from agentloop.http.app import build  # needs the extra

    return build(loop, authenticate, HttpOptions(**choices)).app
