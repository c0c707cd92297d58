"""What a host may choose for the HTTP side, gathered in one value."""

from attrs import field, frozen

from agentloop.ports import Ids
from agentloop.runtime.system import RandomIds


@frozen(kw_only=True)
class HttpOptions:
    """The host's choices; spans are in seconds.

    Size and depth of bodies, and the URL of the error pages, are options of the
    loop, because they hold for every way to reach it.

    Attributes:
        threads: how many blocking calls of the loop run at once.
        max_requests: requests under way beyond which the answer is 429; as many
            bodies more may be on their way in.
        max_streams: event streams open beyond which the answer is 429.
        body_timeout: how long a request's body may take to arrive; then 408.
        retry_after: what a 429 or 503 tells the caller to wait.
        heartbeat: the silence after which a stream says that it is alive.
        poll: how often a stream looks for events of runs driven elsewhere.
        health_timeout: how long the store may take before it counts as gone.
        ids: where log ids come from.
    """

    threads: int = 16
    max_requests: int | None = None
    max_streams: int | None = None
    body_timeout: float = 30.0
    retry_after: int = 1
    heartbeat: float = 15.0
    poll: float = 1.0
    health_timeout: float = 2.0
    ids: Ids = field(factory=RandomIds)
