"""One attempt: encode, call once, decode; and the session that makes attempts.

The only room that waits for Bedrock. It never tries again and never raises for what
the provider or the network does: every outcome is an event with a report.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from math import inf
from time import monotonic
from typing import Any, Final, Protocol

from agentloop.backends.bedrock.codec import (
    Conversation,
    decode,
    reply_text,
    usage_of,
)
from agentloop.backends.bedrock.errors import Phase, failure_of, request_id_of
from agentloop.backends.bedrock.handover import Door, Errand
from agentloop.backends.bedrock.options import Model
from agentloop.backends.bedrock.stream import CutOffError, assemble
from agentloop.backends.common.events import failed, replied
from agentloop.core.catalog import Failure
from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.ports import (
    AttemptReport,
    DeltaSink,
    Inference,
    JobContext,
    MissingExtraError,
    SessionSetup,
)

_LEAST_TIMEOUT: Final = 0.001  # urllib3 refuses zero


class Doors(Protocol):
    """Where a session finds the way to its client."""

    def open(self) -> Door:
        """The door, with the client built if it was not yet."""
        ...

    def opened(self) -> Door | None:
        """The door if it was opened before."""
        ...


class BedrockSession:
    """The inferences of one run over one client; used by one thread at a time."""

    def __init__(self, setup: SessionSetup, model: Model, doors: Doors) -> None:
        self._model = model
        self._doors = doors
        self._conversation = Conversation(setup, model)

    def request(self, command: Infer, job: JobContext) -> bytes:
        """The body that `infer` sends for this command, byte for byte.

        Needs no client: the bytes are ours, and botocore would write the same. Only
        where a client was found to write others, its serialiser is asked.
        """
        errand = self._errand(command, job, None)
        door = self._doors.opened()
        return errand.body if door is None else door.body(errand)

    def infer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """Make one request, through ConverseStream when somebody listens.

        `job.timeout` is how long Bedrock may be silent: until the reply of Converse,
        between two pieces of a stream. A stream that keeps talking is ended at the
        first event past the time, so it lasts less than twice as long. botocore 1.42,
        and a client used with `hand_over=False`, know no time-out per call: there the
        client's own `read_timeout` is the limit. Connecting has the client's
        `connect_timeout`.
        """
        errand = self._errand(command, job, on_delta)
        attempt = _Attempt(errand, self._conversation.take_notes())
        reply = self._reply(errand, attempt, on_delta)
        event = self._event(command, reply, attempt)
        return Inference(event, attempt.report())

    def _errand(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Errand:
        patience = None if job.timeout is None else max(job.timeout, _LEAST_TIMEOUT)
        return Errand(
            "Converse" if on_delta is None else "ConverseStream",
            self._model.id,
            self._conversation.body(command, job.job_id),
            patience,
        )

    def _reply(
        self, errand: Errand, attempt: "_Attempt", on_delta: DeltaSink | None
    ) -> Mapping[str, Any] | Failure:
        """The reply as Converse gives it, or what went wrong on the way."""
        phase: Phase = "call"
        began = monotonic()
        try:
            answer, sent, warning = self._doors.open().call(errand)
            attempt.hear(answer, sent, warning)
            if on_delta is None:
                return dict(answer)
            phase = "stream"
            return _read(answer, on_delta, _overdue(began, errand.read_timeout))
        except MissingExtraError:
            raise
        except _ListenerError as error:
            raise error.cause from None
        except Exception as error:  # the table of errors is total
            attempt.request_id = request_id_of(error) or attempt.request_id
            return failure_of(error, phase)

    def _event(
        self,
        command: Infer,
        reply: Mapping[str, Any] | Failure,
        attempt: "_Attempt",
    ) -> ModelReplied | ModelFailed:
        if isinstance(reply, Failure):
            return failed(command, reply, None)
        attempt.response = reply_text(reply)
        found = decode(reply, self._conversation.tool_name)
        if isinstance(found, Failure):
            return failed(command, found, usage_of(reply))
        attempt.notes += found.notes
        return replied(command, found)


class _Attempt:
    """What an attempt is known to have been, for its report."""

    def __init__(self, errand: Errand, notes: tuple[str, ...]) -> None:
        self.sent = errand.body
        self.notes = notes
        self.request_id: str | None = None
        self.response: str | None = None

    def hear(self, answer: Any, sent: bytes, warning: str | None) -> None:
        """Take what is known once Bedrock has answered."""
        self.sent = sent
        self.notes += () if warning is None else (warning,)
        found = answer.get("ResponseMetadata", {}).get("RequestId")
        self.request_id = found or None

    def report(self) -> AttemptReport:
        """The report for the job record."""
        digest = sha256(self.sent).hexdigest()
        return AttemptReport(self.request_id, digest, self.response, self.notes)


# ---------------------------------------------------------------- streams


class _ListenerError(Exception):
    """Whoever listens failed; that is no fault of Bedrock's and goes through."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__()


def _overdue(began: float, seconds: float | None) -> Callable[[], None]:
    """A check that raises once the seconds have passed; None never pass."""
    end = inf if seconds is None else began + seconds

    def check() -> None:
        if monotonic() > end:
            raise TimeoutError(f"the stream was not complete after {seconds:g} s")

    return check


def _read(
    answer: Mapping[str, Any], on_delta: DeltaSink, overdue: Callable[[], None]
) -> dict[str, Any]:
    """Read a stream to its end and give its connection back."""
    stream = answer.get("stream")
    if stream is None:
        raise CutOffError("without any event")

    def tell(piece: str) -> None:
        try:
            on_delta(piece)
        except Exception as error:
            raise _ListenerError(error) from error

    try:
        reply = assemble(stream, tell, overdue)
    finally:
        with suppress(Exception):
            stream.close()
    return reply
