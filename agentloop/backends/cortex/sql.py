"""One attempt over SQL: submit, remember, wait, fetch; and the session that does it.

`SNOWFLAKE.CORTEX.COMPLETE` runs as an asynchronous query: its id is known, and made
durable, before there is an answer. Whoever comes after a crash or a lost connection
finds the query by that id and fetches its result instead of asking again. The job's
id travels as `QUERY_TAG`, the attempt's time as `STATEMENT_TIMEOUT_IN_SECONDS`, so
that no query outlives its attempt by much even if nobody is left to abort it.

Nothing here tries again. The connector does, on its own: below a statement it repeats
HTTP requests under the same request id, which Snowflake answers from the first one.
How long it goes on is not left to it (`calls`).
"""

import threading
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final

from agentloop.backends.common.events import failed, replied
from agentloop.backends.cortex.account import Link, NoTokenError
from agentloop.backends.cortex.calls import Calls, Deadline, Patience, whole_seconds
from agentloop.backends.cortex.codec.complete import MOST_BYTES, Arguments, CompleteBody
from agentloop.backends.cortex.codec.decode import Asked, decode_complete
from agentloop.backends.cortex.codec.encode import Conversation
from agentloop.backends.cortex.codec.replies import MalformedError, parsed
from agentloop.backends.cortex.errors import failure_of
from agentloop.backends.cortex.events import tell_whole
from agentloop.backends.cortex.options import Model
from agentloop.core.catalog import Failure
from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.ports import (
    AttemptReport,
    DeltaSink,
    Inference,
    JobContext,
    SessionSetup,
)
from agentloop.wire import dump

_MARKS: Final = {True: "%s", False: "?"}
_STATEMENT: Final = (
    "select snowflake.cortex.complete({0}, parse_json({0}), parse_json({0}))"
)
_AROUND: Final = 48  # bytes of what names a bound value and its type
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_GROWTH: Final = 1.5
_MOST_UNKNOWN: Final = 24
"""How often Snowflake may know nothing of a query, as in the connector's own wait."""

_ABORT_WITHIN: Final = 1.0
"""Seconds that the end of a query may take once nobody waits for its answer."""


class GoneError(Exception):
    """Snowflake knows nothing of a query."""


class SqlSession:
    """The inferences of one run over SQL; used by one thread at a time."""

    def __init__(
        self, setup: SessionSetup, model: Model, link: Link, calls: Calls
    ) -> None:
        self._setup = setup
        self._model = model
        self._link = link
        self._calls = calls
        self._conversation = Conversation(setup, model)
        body = self._conversation.body
        if not isinstance(body, CompleteBody):
            raise TypeError(f"'{model.id}' is spoken to over {model.dialect}, not SQL")
        self._body = body
        self._running: dict[str, str] = {}

    @property
    def _connection(self) -> Any:
        return self._link.connection

    def request(self, command: Infer, job: JobContext) -> bytes:
        """The arguments of COMPLETE as one document; SQL knows no streams."""
        return self._conversation.request(command, streamed=job.streamed)

    def infer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """Run one query, or fetch the answer of the one this job already has.

        Somebody who listens is told the text when it is there, in one piece.
        """
        turns, moment = self._conversation.turns(command, streamed=False)
        body = self._body.body(turns, moment)
        attempt = _Attempt(body, self._conversation.take_notes(), job)
        found = self._answer(attempt, self._body.arguments(turns, moment))
        event = self._event(command, attempt, found, on_delta)
        return Inference(event, attempt.report())

    def end(self, remembered: str) -> None:
        """End a query whose worker died, and whose answer nobody wants any more.

        Raises:
            TimeoutError: the connector took too long.
            Exception: what it raises.
        """
        brief = Patience(Deadline(_ABORT_WITHIN))
        self._calls.make(lambda: self._end(remembered), brief)

    # ------------------------------------------------------------ one attempt

    def _answer(self, attempt: "_Attempt", arguments: Arguments) -> str | Failure:
        """The value that COMPLETE returned, or what went wrong on the way."""
        try:
            cell = self._cell(attempt, arguments)
        except _MemoryError as error:
            raise error.cause from None
        except Exception as error:  # the table of errors is total
            return failure_of(error)
        if cell is None:
            message = "cortex' COMPLETE returned NULL, which is how it tells of failure"
            return Failure(kind="provider", message=message, code="NULL")
        if not isinstance(cell, str):
            message = f"cortex' COMPLETE returned no text but {type(cell).__name__}"
            return Failure(kind="malformed_output", message=message)
        return cell

    def _cell(self, attempt: "_Attempt", arguments: Arguments) -> Any:
        """The value of this job's query, over another login where one has run out."""
        connection = self._connection
        try:
            return self._value(attempt, arguments)
        except Exception as error:
            if not self._link.can_replace(error):
                raise
        self._calls.make(lambda: self._link.replace(connection), attempt.patience)
        attempt.notes += ("the login had run out; a new connection was opened",)
        return self._value(attempt, arguments)

    def _value(self, attempt: "_Attempt", arguments: Arguments) -> Any:
        cell = self._earlier(attempt)
        if cell is _NOTHING:
            self._submit(attempt, arguments)
            cell = self._fetch(attempt)
        return cell

    def _earlier(self, attempt: "_Attempt") -> Any:
        """The value of the query that this job already has, if it has one."""
        job = attempt.job
        query_id = self._running.get(job.job_id) or job.remembered
        if not query_id:
            return _NOTHING
        attempt.query_id = query_id
        attempt.notes += (f"attached to the query {query_id} of an earlier attempt",)
        self._remember(attempt, query_id)  # what was kept belonged to that attempt
        try:
            return self._fetch(attempt)
        except GoneError:
            attempt.notes += (f"the query {query_id} is gone; another was submitted",)
            attempt.query_id = None
            return _NOTHING

    def _submit(self, attempt: "_Attempt", arguments: Arguments) -> None:
        """Start the query; its id is durable before this returns."""
        job, seconds = attempt.job, whole_seconds(attempt.patience.deadline)
        parameters: dict[str, Any] = {"QUERY_TAG": job.job_id}
        choices: dict[str, Any] = {"_statement_params": parameters}
        if seconds is not None:
            parameters["STATEMENT_TIMEOUT_IN_SECONDS"] = seconds
            choices["timeout"] = seconds  # ends the tries of 4.x; 5.x has no use for it
        values = (arguments.model, arguments.prompt, arguments.options)
        inline = bool(self._connection.is_pyformat)
        statement = _STATEMENT.format(_MARKS[inline])
        _check_size(statement, values, inline=inline)

        def submit() -> str:
            with self._connection.cursor() as cursor:
                reply = cursor.execute_async(statement, values, **choices)
                return str(reply["queryId"])

        # A query that nobody has the id of is ended as soon as there is an id.
        made = self._calls.make(submit, attempt.patience, self._end)
        attempt.query_id = made
        self._remember(attempt, made)

    def _remember(self, attempt: "_Attempt", query_id: str) -> None:
        job = attempt.job
        self._running[job.job_id] = query_id
        if job.remember is None:
            return
        try:
            job.remember(query_id)
        except BaseException as error:
            self._abort(attempt, query_id)
            if isinstance(error, Exception):
                raise _MemoryError(error) from error
            raise

    def _forget(self, attempt: "_Attempt") -> None:
        """The query has come to an end; another attempt needs another one."""
        job = attempt.job
        if self._running.pop(job.job_id, job.remembered) and job.remember is not None:
            job.remember(None)

    def _fetch(self, attempt: "_Attempt") -> Any:
        """Wait for the query and take its one value.

        A connection that fails meanwhile leaves the query running, and remembered.
        """
        query_id = attempt.query_id or ""
        status = self._wait(attempt, query_id)
        if self._connection.is_an_error(status):
            self._forget(attempt)
        row = self._calls.make(lambda: self._row(query_id), attempt.patience)
        self._forget(attempt)
        return row[0] if row else None

    def _row(self, query_id: str) -> Any:
        with self._connection.cursor() as cursor:
            cursor.get_results_from_sfqid(query_id)
            return cursor.fetchone()

    def _wait(self, attempt: "_Attempt", query_id: str) -> Any:
        """The status of the query once it has ended; aborts it when time is up."""
        pause, unknown = _FIRST_PAUSE, 0
        while True:
            if self._connection.is_closed():
                raise NoTokenError("the host's connection is closed")
            try:
                status = self._calls.make(
                    lambda: self._connection.get_query_status(query_id),
                    attempt.patience,
                )
                if not self._connection.is_still_running(status):
                    return status
                unknown = unknown + 1 if status.name == "NO_DATA" else 0
                self._check_known(attempt, query_id, unknown)
                _nap(attempt.patience.within(pause))
            except TimeoutError:
                self._abort(attempt, query_id)
                raise
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)

    def _check_known(self, attempt: "_Attempt", query_id: str, unknown: int) -> None:
        if unknown >= _MOST_UNKNOWN:
            self._forget(attempt)
            raise GoneError(f"snowflake knows nothing of the query {query_id}")

    def _abort(self, attempt: "_Attempt", query_id: str) -> None:
        """End a query that nobody waits for.

        Where that fails its own time-out is left to end it, and it stays remembered:
        whoever comes next finds its answer, or that it has ended.
        """
        with suppress(Exception):
            self.end(query_id)
            self._forget(attempt)

    def _end(self, query_id: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.abort_query(query_id)

    # ------------------------------------------------------------ its meaning

    def _event(
        self,
        command: Infer,
        attempt: "_Attempt",
        found: str | Failure,
        on_delta: DeltaSink | None,
    ) -> ModelReplied | ModelFailed:
        if isinstance(found, Failure):
            return failed(command, found, None)
        attempt.keep(found)
        emulated = self._body.emulation is not None
        asked = Asked(
            job_id=attempt.job.job_id,
            max_tokens=self._setup.config.max_tokens,
            structured=self._body.structured,
            emulated=emulated,
            tool_name=self._conversation.tool_name,
        )
        reply = decode_complete(found, asked)
        if isinstance(reply, Failure):
            return failed(command, reply, None)
        attempt.notes += reply.notes
        if on_delta is not None:
            tell_whole(reply, on_delta)
        return replied(command, reply)


class _Attempt:
    """What an attempt is known to have been, for its report."""

    def __init__(self, body: bytes, notes: tuple[str, ...], job: JobContext) -> None:
        self.body = body
        self.notes = notes
        self.job = job
        self.patience = Patience(Deadline(job.timeout), job.abandoned)
        self.query_id: str | None = None
        self.response: str | None = None

    def keep(self, cell: str) -> None:
        """Keep the answer, as JSON text."""
        try:
            parsed(cell)
        except MalformedError:
            cell = dump(cell)
        self.response = cell

    def report(self) -> AttemptReport:
        """The report for the job record."""
        return AttemptReport(
            provider_request_id=self.query_id,
            request_sha256=sha256(self.body).hexdigest(),
            response=self.response,
            notes=self.notes,
        )


class _MemoryError(Exception):
    """Whoever remembers failed; that is no fault of Cortex' and goes through."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__()


_NOTHING: Final = object()


def _check_size(statement: str, values: tuple[str, ...], *, inline: bool) -> None:
    """Refuse what Snowflake would refuse, with a way out.

    Raises:
        StatementSizeError: it is longer than a statement may be.
    """
    size = len(statement) + sum(_size(value, inline=inline) for value in values)
    if size > MOST_BYTES:
        raise StatementSizeError(
            f"the conversation takes {size} bytes and a statement {MOST_BYTES}; "
            "use the rest transport, or shorten it"
        )


def _size(value: str, *, inline: bool) -> int:
    """The bytes of a value as it travels.

    Within the statement the connector quotes it, and puts a backslash before each
    of four characters; beside it, it is a member of a JSON document.
    """
    if not inline:
        return len(dump(value)) + _AROUND
    escaped = sum(value.count(character) for character in "\\'\n\r")
    return len(value.encode("utf-8")) + escaped + len("''")


class StatementSizeError(Exception):
    """A conversation too long for one statement."""


def _nap(seconds: float) -> None:
    threading.Event().wait(seconds)
