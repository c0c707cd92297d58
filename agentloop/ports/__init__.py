"""What a host supplies, as Protocols with the values that cross them.

Each method's docstring is its contract: whoever implements it needs to read
nothing else. Nothing in here does any work.
"""

from agentloop.ports.backend import (
    AttemptReport,
    Backend,
    DeltaSink,
    Inference,
    JobContext,
    Preceding,
    Session,
    SessionSetup,
)
from agentloop.ports.engine import Engine, EngineUnavailableError, RunRef
from agentloop.ports.store import (
    AttemptRow,
    Checkpoint,
    Claim,
    ClaimRequest,
    ConversationRow,
    EventRow,
    Final,
    JobRow,
    Lease,
    LeaseLostError,
    MessagePage,
    MessageRow,
    NewConversationRow,
    NewRunRow,
    Reader,
    RunRow,
    Store,
    StoreUnavailableError,
    VersionMovedError,
)
from agentloop.ports.system import Clock, Ids, MissingExtraError, Observer, require
from agentloop.ports.tools import (
    ServerDirectory,
    ToolAnswer,
    ToolCall,
    ToolServer,
)

__all__ = [
    "AttemptReport",
    "AttemptRow",
    "Backend",
    "Checkpoint",
    "Claim",
    "ClaimRequest",
    "Clock",
    "ConversationRow",
    "DeltaSink",
    "Engine",
    "EngineUnavailableError",
    "EventRow",
    "Final",
    "Ids",
    "Inference",
    "JobContext",
    "JobRow",
    "Lease",
    "LeaseLostError",
    "MessagePage",
    "MessageRow",
    "MissingExtraError",
    "NewConversationRow",
    "NewRunRow",
    "Observer",
    "Preceding",
    "Reader",
    "RunRef",
    "RunRow",
    "ServerDirectory",
    "Session",
    "SessionSetup",
    "Store",
    "StoreUnavailableError",
    "ToolAnswer",
    "ToolCall",
    "ToolServer",
    "VersionMovedError",
    "require",
]
