"""A loopback server that speaks the Bedrock runtime protocol to the real boto3 client.

moto has no Converse; this has both forms of it, hand-built event streams, failures of
every kind on demand, and Bedrock's own rules on requests. It needs no AWS account, no
patching and, boto3 apart, no dependency.

    from agentloop.testing.fake_bedrock import FakeBedrock, calls, says

    with FakeBedrock(calls(("rooms-free_slots", {})), says("done")) as bedrock:
        client = bedrock.client()

See `replies` for everything a scripted model can do, and `rules` for the offline
question "would Bedrock accept this?".
"""

from agentloop.testing.fake_bedrock.fake import (
    FakeBedrock,
    ScriptError,
    accept_anything,
)
from agentloop.testing.fake_bedrock.records import Received, Refused
from agentloop.testing.fake_bedrock.replies import (
    Message,
    Partial,
    Reply,
    answers,
    breaks,
    calls,
    content,
    corrupts,
    cuts,
    ends_early,
    fails,
    html,
    intervenes,
    raw_body,
    resets,
    says,
    split,
    stalls,
    thinks,
    thinks_secretly,
    throttles,
    tokens,
    truncates,
)
from agentloop.testing.fake_bedrock.rules import (
    RULES,
    Rule,
    Violation,
    first_violation,
    violations,
)

__all__ = [
    "RULES",
    "FakeBedrock",
    "Message",
    "Partial",
    "Received",
    "Refused",
    "Reply",
    "Rule",
    "ScriptError",
    "Violation",
    "accept_anything",
    "answers",
    "breaks",
    "calls",
    "content",
    "corrupts",
    "cuts",
    "ends_early",
    "fails",
    "first_violation",
    "html",
    "intervenes",
    "raw_body",
    "resets",
    "says",
    "split",
    "stalls",
    "thinks",
    "thinks_secretly",
    "throttles",
    "tokens",
    "truncates",
    "violations",
]
