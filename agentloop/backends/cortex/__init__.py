"""Snowflake Cortex over one host connection, by REST or by SQL.

    from agentloop.backends.cortex import CortexBackend

    loop = AgentLoop(backend=CortexBackend(connection), ...)

`capabilities` and `errors` are tables, `codec` turns messages into requests and replies
into messages without any I/O, `account` takes credentials from the connection, `calls`
ends what the connector would go on with, `http` posts, `rest` and `sql` make the
attempts. Nothing here knows storage, drivers or tools.
"""

from agentloop.backends.common.thinking import Thinking
from agentloop.backends.cortex.account import Auth
from agentloop.backends.cortex.backend import CortexBackend
from agentloop.backends.cortex.capabilities import Capabilities, capabilities_of
from agentloop.backends.cortex.options import CachePoints, ModelOptions

__all__ = [
    "Auth",
    "CachePoints",
    "Capabilities",
    "CortexBackend",
    "ModelOptions",
    "Thinking",
    "capabilities_of",
]
