"""AWS Bedrock, through the Converse API of a boto3 client.

    from agentloop.backends.bedrock import BedrockBackend

    loop = AgentLoop(backend=BedrockBackend(), ...)

`capabilities` and `errors` are tables, `codec` turns messages into requests and replies
into messages without any I/O, `handover` gets finished bodies into botocore, `session`
makes the calls. Nothing here knows storage, drivers or tools.
"""

from agentloop.backends.bedrock.backend import BedrockBackend
from agentloop.backends.bedrock.capabilities import Capabilities, capabilities_of
from agentloop.backends.bedrock.client import client_warnings
from agentloop.backends.bedrock.options import CachePoints, Guardrail, ModelOptions
from agentloop.backends.common.thinking import Thinking

__all__ = [
    "BedrockBackend",
    "CachePoints",
    "Capabilities",
    "Guardrail",
    "ModelOptions",
    "Thinking",
    "capabilities_of",
    "client_warnings",
]
