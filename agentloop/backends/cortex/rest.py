"""One attempt over REST: encode, post once, decode; and the session that makes them.

The only room that waits for Cortex' REST doors. It never tries again and never raises
for what the provider or the network does: every outcome is an event with a report. A
session token that has expired is no attempt that failed, since nothing was done: it
is renewed and the request sent once more, which the report tells.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from attrs import frozen

from agentloop.backends.common.events import failed, replied
from agentloop.backends.cortex.account import Account, Ticket
from agentloop.backends.cortex.calls import Deadline, Patience
from agentloop.backends.cortex.capabilities import Dialect
from agentloop.backends.cortex.codec.decode import (
    ToolName,
    chat_usage,
    decode_chat,
    decode_messages,
    messages_usage,
)
from agentloop.backends.cortex.codec.encode import Conversation
from agentloop.backends.cortex.codec.replies import MalformedError, Reply, parsed
from agentloop.backends.cortex.codec.sse import Event, events
from agentloop.backends.cortex.codec.stream import (
    BrokenOffError,
    ChatDraft,
    Draft,
    MessagesDraft,
)
from agentloop.backends.cortex.errors import (
    EXPIRED,
    broken_off,
    code_in,
    failure_of,
    refusal,
    request_id_in,
)
from agentloop.backends.cortex.events import tell_whole
from agentloop.backends.cortex.http import Http, Incoming
from agentloop.backends.cortex.options import Model
from agentloop.core.catalog import Failure
from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.core.run import Usage
from agentloop.ports import (
    AttemptReport,
    DeltaSink,
    Inference,
    JobContext,
    MissingExtraError,
    Preceding,
    SessionSetup,
)
from agentloop.wire import dump

PATHS: Final[Mapping[Dialect, str]] = {
    "messages": "/api/v2/cortex/v1/messages",
    "chat": "/api/v2/cortex/v1/chat/completions",
}
ANTHROPIC_VERSION: Final = "2023-06-01"
REQUEST_ID: Final = "x-snowflake-request-id"
_DRAFTS: Final[Mapping[Dialect, Callable[[DeltaSink], Draft]]] = {
    "messages": MessagesDraft,
    "chat": ChatDraft,
}


@frozen
class Doors:
    """What all sessions of a backend share."""

    account: Account
    http: Http


class RestSession:
    """The inferences of one run over REST; used by one thread at a time."""

    def __init__(self, setup: SessionSetup, model: Model, doors: Doors) -> None:
        self._model = model
        self._doors = doors
        self._conversation = Conversation(setup, model)
        self._headers = _headers(model)

    def request(self, command: Infer, job: JobContext) -> bytes:
        """The body that `infer` sends for this command, byte for byte."""
        return self._conversation.request(command, streamed=job.streamed)

    def infer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """Make one request, as a stream when somebody listens.

        `job.timeout` covers everything: connecting, waiting, reading to the end.
        """
        body = self._conversation.request(command, streamed=on_delta is not None)
        attempt = _Attempt(body, self._conversation.take_notes(), job)
        event = self._event(command, attempt, self._answer(attempt, on_delta))
        return Inference(event, attempt.report())

    # ------------------------------------------------------------ one attempt

    def _answer(
        self, attempt: "_Attempt", on_delta: DeltaSink | None
    ) -> dict[str, Any] | Failure:
        """The reply as a document, or what went wrong on the way."""
        try:
            ticket = self._doors.account.ticket()
            found = self._exchange(attempt, ticket, on_delta)
            if isinstance(found, _Expired):
                attempt.repeat(found)
                self._doors.account.renew(ticket, attempt.patience)
                ticket = self._doors.account.ticket()
                found = self._exchange(attempt, ticket, on_delta)
        except MissingExtraError:
            raise
        except _ListenerError as error:
            raise error.cause from None
        except BrokenOffError as error:
            return broken_off(error.event)
        except Exception as error:  # the table of errors is total
            return failure_of(error)
        return found.failure if isinstance(found, _Expired) else found

    def _exchange(
        self, attempt: "_Attempt", ticket: Ticket, on_delta: DeltaSink | None
    ) -> "dict[str, Any] | Failure | _Expired":
        """Send the request once and read its reply to the end."""
        url = ticket.base_url + PATHS[self._model.dialect]
        headers = {**self._headers, **ticket.headers}
        incoming = self._doors.http.post(url, attempt.body, headers, attempt.deadline)
        attempt.request_id = incoming.headers.get(REQUEST_ID) or None
        try:
            found = self._read(attempt, incoming, on_delta)
        except BaseException:
            incoming.drop()
            raise
        incoming.done()
        return found

    def _read(
        self, attempt: "_Attempt", incoming: Incoming, on_delta: DeltaSink | None
    ) -> "dict[str, Any] | Failure | _Expired":
        kind = incoming.headers.get("content-type", "")
        if incoming.status == 200 and kind.startswith("text/event-stream"):
            return self._assembled(attempt, incoming, on_delta)
        raw = incoming.read()
        if incoming.status != 200:
            attempt.request_id = attempt.request_id or request_id_in(raw)
            return refusal(incoming.status, raw, incoming.headers)
        document = attempt.document(raw)
        excuse = _excuse(raw, document, incoming.headers)
        if excuse is None and on_delta is not None:
            attempt.untold = on_delta  # it was asked to stream and did not
        return excuse or document

    def _assembled(
        self, attempt: "_Attempt", incoming: Incoming, on_delta: DeltaSink | None
    ) -> dict[str, Any]:
        def tell(piece: str) -> None:
            if on_delta is None:
                return
            try:
                on_delta(piece)
            except Exception as error:
                raise _ListenerError(error) from error

        seen = _while_wanted(events(incoming.pieces()), attempt.patience)
        attempt.draft = draft = _DRAFTS[self._model.dialect](tell)
        document = draft.read(seen)
        attempt.notes += tuple(draft.notes)
        attempt.response = dump(document)
        return document

    # ------------------------------------------------------------ its meaning

    def _event(
        self,
        command: Infer,
        attempt: "_Attempt",
        found: dict[str, Any] | Failure,
    ) -> ModelReplied | ModelFailed:
        if isinstance(found, Failure):
            # What a stream had told before it broke off was paid for.
            told = attempt.draft.told if attempt.draft is not None else {}
            return failed(command, found, _usage(self._model.dialect, told))
        reply = _decoded(self._model.dialect, found, self._conversation.tool_name)
        if isinstance(reply, Failure):
            return failed(command, reply, _usage(self._model.dialect, found))
        attempt.notes += reply.notes
        if attempt.untold is not None:
            tell_whole(reply, attempt.untold)
        return replied(command, reply)


class _Attempt:
    """What an attempt is known to have been, for its report."""

    def __init__(self, body: bytes, notes: tuple[str, ...], job: JobContext) -> None:
        self.body = body
        self.notes = notes
        self.job = job
        self.deadline = Deadline(job.timeout)
        self.patience = Patience(self.deadline, job.abandoned)
        self.request_id: str | None = None
        self.response: str | None = None
        self.preceding: tuple[Preceding, ...] = ()
        self.untold: DeltaSink | None = None
        self.draft: Draft | None = None

    def document(self, raw: bytes) -> dict[str, Any]:
        """The document in a body; what came is kept either way, as JSON text.

        Raises:
            MalformedError: it is no JSON object.
        """
        text = raw.decode("utf-8", "replace")
        try:
            value = parsed(text)
        except MalformedError:
            self.response = dump(text)
            raise
        self.response = text
        if not isinstance(value, dict):
            raise MalformedError("it is no JSON object")
        return value

    def repeat(self, expired: "_Expired") -> None:
        """Record a request that met an expired session."""
        failure = expired.failure
        self.preceding += (
            Preceding(
                code=EXPIRED,
                message=failure.message,
                provider_request_id=self.request_id,
            ),
        )
        self.request_id = self.response = None

    def report(self) -> AttemptReport:
        """The report for the job record."""
        return AttemptReport(
            provider_request_id=self.request_id,
            request_sha256=sha256(self.body).hexdigest(),
            response=self.response,
            notes=self.notes,
            preceding=self.preceding,
        )


@frozen
class _Expired:
    """The session token had expired; nothing was done."""

    failure: Failure


class _ListenerError(Exception):
    """Whoever listens failed; that is no fault of Cortex' and goes through."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__()


def _excuse(
    raw: bytes, document: Mapping[str, Any], headers: Mapping[str, str]
) -> Failure | _Expired | None:
    """What a success that is none says: Snowflake tells expiry with HTTP 200."""
    code = code_in(document)
    if code is None or "content" in document or "choices" in document:
        return None
    failure = refusal(200, raw, headers)
    return _Expired(failure) if code == EXPIRED else failure


def _while_wanted(found: Iterable[Event], patience: Patience) -> Iterable[Event]:
    """The events for as long as somebody waits for the answer."""
    for event in found:
        patience.within(0)
        yield event


def _decoded(
    dialect: Dialect, document: dict[str, Any], tool_name: ToolName
) -> Reply | Failure:
    decode = decode_messages if dialect == "messages" else decode_chat
    return decode(document, tool_name)


def _usage(dialect: Dialect, document: Mapping[str, Any]) -> Usage | None:
    return messages_usage(document) if dialect == "messages" else chat_usage(document)


def _headers(model: Model) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "User-Agent": "agentloop",
    }
    if model.dialect == "messages":
        headers["anthropic-version"] = ANTHROPIC_VERSION
        if model.options.betas:
            headers["anthropic-beta"] = ",".join(model.options.betas)
    return headers
