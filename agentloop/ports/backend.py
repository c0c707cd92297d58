"""The port to a model provider: one session per drive, one call per attempt."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from agentloop.core.config import Config, ToolChoice, ToolSpec
from agentloop.core.content import Message
from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.core.values import value

DeltaSink: TypeAlias = Callable[[str], None]
"""Takes pieces of text as the model produces them."""


@value(kw_only=True)
class SessionSetup:
    """What stays the same for all inferences of one run.

    `history` are the conversation's messages before the run; `specs` carry wire
    names, and may be empty although the history holds tool blocks.
    """

    config: Config
    system: str | None
    specs: tuple[ToolSpec, ...]
    history: Sequence[Message]


@value
class JobContext:
    """What an attempt is called, how long it may take, and what is known of it.

    A provider may run an inference under an id of its own that outlives the call,
    as a Snowflake query does. A backend tells that id through `remember` before it
    waits for the answer; whoever drives the job next hands it back as `remembered`,
    so that the answer is fetched instead of being paid for twice.

    Attributes:
        job_id: the id of the job, minted and stored before the first attempt.
        timeout: seconds the attempt may take; None leaves it to the backend.
        streamed: whether the answer is asked for as a stream, which is part of the
            body on some wires; `Session.request` reads it, `infer` goes by `on_delta`.
        remember: makes a text durable before it returns; None takes it back, which
            need not be durable at once. May raise, and then the attempt must end.
        remembered: the text that an earlier attempt of this job left, if any.
        abandoned: whether nobody waits for the answer any more; may be asked often.
    """

    job_id: str
    timeout: float | None = None
    streamed: bool = False
    remember: Callable[[str | None], None] | None = None
    remembered: str | None = None
    abandoned: Callable[[], bool] | None = None


@value(kw_only=True)
class Preceding:
    """A request that was answered only with a demand for fresh credentials.

    Nothing was inferred, so it is no attempt of its own; it is recorded before the
    attempt that it belongs to.
    """

    code: str
    message: str
    provider_request_id: str | None = None


@value
class AttemptReport:
    """What one attempt leaves for the job record.

    Attributes:
        provider_request_id: the provider's own id, where it gave one.
        request_sha256: hex digest of `Session.request` as it was sent.
        response: the provider's answer as JSON text, verbatim.
        notes: what the encoder changed so that the provider takes the history.
        preceding: requests that had to be repeated with fresh credentials.
    """

    provider_request_id: str | None = None
    request_sha256: str | None = None
    response: str | None = None
    notes: tuple[str, ...] = ()
    preceding: tuple[Preceding, ...] = ()


@value
class Inference:
    """The event that answers an `Infer` command, and the attempt's report."""

    event: ModelReplied | ModelFailed
    report: AttemptReport


class Session(Protocol):
    """Inferences of one run, made one after another.

    A session may keep encoded turns, keyed by position in the log. It is used by
    one thread at a time.

    One that lets its backend remember something may have `end(remembered: str)`: it
    ends what that stands for, since nobody wants the answer any more. It is called
    for a run that is cancelled, or whose time is up, after its worker died; it must
    take no more than a few seconds, and may fail.
    """

    def infer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """Make exactly one request to the provider and wait for its answer.

        Must not retry. Must not raise for anything the provider or the network
        does: that is a `ModelFailed` with a `Failure` of the right kind. A reply
        that cannot be understood is `malformed_output`. `on_delta` is given when
        somebody listens; the provider's streaming call is used then.
        """
        ...

    def request(self, command: Infer, job: JobContext) -> bytes:
        """The body that `infer` sends for this command, byte for byte.

        With `job.streamed` it is the body of an attempt that somebody listened to.
        """
        ...


class Backend(Protocol):
    """A model provider over the host's own client; shared by all threads.

    A backend whose sessions have `async def ainfer`, with the signature of
    `Session.infer`, is awaited by the async driver instead of using a thread.
    """

    @property
    def name(self) -> str:
        """A short name for job records, e.g. `bedrock`."""
        ...

    def check(self, config: Config, tool_choice: ToolChoice) -> None:
        """Refuse what the provider would refuse for this config, before it costs.

        Called once when a run starts; must not perform I/O.

        Raises:
            RequestError: `invalid-config`, naming the combination.
        """
        ...

    def session(self, setup: SessionSetup) -> Session:
        """A session for one drive of one run; cheap, and without I/O."""
        ...
