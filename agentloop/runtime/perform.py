"""Performing one effect: what is sent out, and the event that comes back.

`Performer` holds what the synchronous and the asynchronous way share: the values
that go out and what is made of the answers. `perform` is the synchronous way.

Whatever a backend or a tool server does, an event comes back: what they raise
against their contract becomes a failure of the run, never of the worker.
"""

import logging
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeAlias

from attrs import evolve

from agentloop.core.catalog import Failure, describe
from agentloop.core.content import Content, Message, Text, tool_uses
from agentloop.core.phases import (
    Answer,
    Call,
    Discover,
    Discovered,
    DiscoveryFailed,
    Event,
    Infer,
    ModelFailed,
    ModelReplied,
    ToolFailed,
    ToolReturned,
)
from agentloop.core.routing import Offer
from agentloop.core.run import RunEvent
from agentloop.core.values import value
from agentloop.ports import (
    AttemptReport,
    Clock,
    DeltaSink,
    Inference,
    JobContext,
    LeaseLostError,
    Preceding,
    Session,
    StoreUnavailableError,
    ToolAnswer,
    ToolCall,
    ToolServer,
)
from agentloop.runtime.hub import Hub
from agentloop.runtime.narrate import Effect, Told
from agentloop.runtime.options import Options
from agentloop.runtime.prepare import Drive
from agentloop.runtime.present import job_id
from agentloop.runtime.records import Attempted
from agentloop.schema import Validator, compile_schema, decode_answer
from agentloop.wire import (
    WireError,
    clean_blocks,
    clean_message,
    clean_text,
    dump,
    to_json,
)

log = logging.getLogger("agentloop")
MAX_REPORTS = 50
"""Lines about tools that servers left out; events are kept, and stay slim."""
ASKED_AT_ONCE = 16
"""Servers of one run that list their tools side by side; a caller's config names them,
and each takes a thread or a place in the host's pool."""
Discoveries: TypeAlias = dict[str, tuple[Offer, ...] | Failure]


@value
class Performed:
    """What performing an effect gave: its event, and what is to be recorded."""

    effect: Effect
    event: Event
    attempt: Attempted | None = None
    told: tuple[Told, ...] = ()


class Performer:
    """Performs the effects of one drive, until its deadline by the clock if any."""

    def __init__(
        self,
        drive: Drive,
        options: Options,
        clock: Clock,
        deadline: float | None,
        hub: Hub,
    ) -> None:
        self.drive = drive
        self.options = options
        self._clock = clock
        self._deadline = deadline
        self._hub = hub
        self.run_id = drive.row.id
        self._scope = drive.row.scope
        self._validator: Validator | None = None
        self._streamed = False
        self._began: datetime | None = None
        self.remember: Callable[[str | None], None] | None = None
        self.abandoned: Callable[[], bool] | None = None

    def time_left(self) -> float | None:
        """Seconds until the deadline, None without one."""
        if self._deadline is None:
            return None
        return self._deadline - self._clock.monotonic()

    def over_time(self) -> bool:
        """Whether the deadline has passed."""
        return self._deadline is not None and self._deadline <= self._clock.monotonic()

    def within(self, limit: float | None) -> float | None:
        """A time-out that also ends with the run's deadline."""
        if self._deadline is None:
            return limit
        left = self._deadline - self._clock.monotonic()
        return max(left if limit is None else min(limit, left), 0.001)

    def session(self) -> Session:
        """The backend's session of this drive; there is one when inference begins."""
        if self.drive.session is None:
            raise AssertionError("inference begins only when the toolbox is known")
        return self.drive.session

    # ------------------------------------------------------------ inference

    def job(self, command: Infer, *, streamed: bool) -> JobContext:
        """What the attempt is called, how long it may take, what is known of it.

        It begins now; a run makes one inference at a time.
        """
        remembered, self.drive.remembered = self.drive.remembered, None
        self._streamed = streamed
        self._began = self._clock.now()
        return JobContext(
            job_id(self.run_id, command.iteration),
            self.within(self.options.attempt_timeout),
            streamed,
            self.remember,
            remembered,
            self.abandoned,
        )

    def inferred(self, command: Infer, found: Inference) -> Performed:
        """The event of an attempt, with its answer decoded, and its record."""
        event, changed = self._cleaned(_addressed(command, found.event))
        if isinstance(event, ModelReplied) and not tool_uses(event.message):
            event = evolve(event, answer=self._answer(event.message))
        report, now = _as_given(found.report), self._clock.now()
        failure = event.failure if isinstance(event, ModelFailed) else None
        record = Attempted(
            self.run_id,
            command.iteration,
            command.attempt,
            failure,
            event.usage,
            report,
            self._streamed,
            self._began or now,
            now,
        )
        _check_texts(record)
        if not changed and not report.notes:
            return Performed(command, event, record)
        place = {"iteration": command.iteration, "attempt": command.attempt}
        notes: list[dict[str, object]] = [{"note": n} for n in report.notes]
        if changed:
            notes.insert(0, {"replaced": changed})
        told: list[Told] = [("text_normalised", {**place, **note}) for note in notes]
        return Performed(command, event, record, tuple(told))

    def _cleaned(
        self, event: ModelReplied | ModelFailed
    ) -> tuple[ModelReplied | ModelFailed, int]:
        """A reply whose every text can be stored, whatever the backend passed on."""
        if isinstance(event, ModelFailed):
            return event, 0
        try:
            message, changed = clean_message(event.message)
        except WireError as error:
            failure = Failure(kind="malformed_output", message=str(error))
            failed = ModelFailed(
                iteration=event.iteration,
                attempt=event.attempt,
                failure=failure,
                usage=event.usage,
            )
            return failed, 0
        return (evolve(event, message=message), changed) if changed else (event, 0)

    def _answer(self, message: Message) -> Answer | Failure:
        schema = self.drive.config.output_format_schema
        try:
            if schema is not None and self._validator is None:
                self._validator = compile_schema(schema)
        except WireError as error:
            problem = f"output_format_schema {error}"
            type_ = "AgentLoopSchemaDecodeFailed"
            return Failure(
                kind="schema_decode", message=describe(type_, problem=problem)
            )
        return decode_answer(message, self._validator)

    def given_up(self, command: Infer, why: str) -> Performed:
        """The record of an attempt that nobody waits for any more."""
        failure = Failure(kind="timeout", message=f"given up: {why}")
        return self.inferred(command, _failed(command, failure))

    def crashed(self, command: Infer, error: BaseException) -> Performed:
        """The event of a backend that raised against its contract.

        What it said is for the host's log alone: it may quote credentials, and a
        failure is stored and shown.
        """
        log.error("the backend of run %s raised", self.run_id, exc_info=error)
        message = f"the backend raised {type(error).__name__}; its text is in the log"
        failure = Failure(kind="provider", message=message)
        return self.inferred(command, _failed(command, failure))

    def delta_sink(self, command: Infer) -> DeltaSink | None:
        """Where pieces of text go, or None when nobody listens."""
        run_id = self.run_id
        if not self._hub.has_listeners(run_id):
            return None
        place = {"iteration": command.iteration, "attempt": command.attempt}

        def take(text: str) -> None:
            event = RunEvent("text_delta", {**place, "text": clean_text(text)[0]})
            self._hub.publish(run_id, event)

        return take

    # ------------------------------------------------------------ tools

    def call_of(self, call: Call) -> ToolCall:
        """The call as a tool server takes it."""
        return ToolCall(
            self.run_id,
            self._scope,
            call.key,
            call.use.tool_use_id,
            call.route.tool,
            call.use.arguments,
            self.within(self.options.tool_timeout),
            self.abandoned,
        )

    def is_quick(self, call: Call) -> bool:
        """Whether a call may be made right where its run is driven."""
        quick = getattr(self.drive.servers[call.route.alias], "quick", None)
        return isinstance(quick, Set) and call.route.tool in quick

    def keeps_time(self, effect: Effect) -> bool:
        """Whether an effect ends in time by itself: then one thread is enough.

        A backend has to, and a server may promise it; see `ports.ToolServer`.
        """
        if not isinstance(effect, Call):
            return True
        server = self.drive.servers[effect.route.alias]
        return bool(getattr(server, "keeps_time", False))

    def called(self, call: Call, answer: ToolAnswer | Failure) -> Performed:
        """The event of a call: its result made storable, or its failure."""
        if isinstance(answer, Failure):
            _check_failure(answer)
            return Performed(call, ToolFailed(call.key, call.attempt, answer))
        try:
            content, changed = _storable(answer.content, self.options.max_result_bytes)
        except WireError as error:
            told = f"The result of this call cannot be passed on: {error}."
            return _told_the_model(call, told)
        event = ToolReturned(call.key, content, answer.is_error)
        if not changed:
            return Performed(call, event)
        note: Told = ("text_normalised", {"key": call.key, "replaced": changed})
        return Performed(call, event, told=(note,))

    def tool_crashed(self, call: Call, error: BaseException) -> Performed:
        """The event of a tool server that raised against its contract."""
        told = f"The tool failed with {type(error).__name__}."
        return _told_the_model(call, told)

    # ------------------------------------------------------------ discovery

    def time_to_list(self) -> float:
        """How long the server that is asked now may take."""
        return self.within(self.options.discovery_timeout) or 0.001

    def discovered(self, command: Discover, found: Discoveries) -> Performed:
        """The event of a discovery: every catalog, or the first failure."""
        for alias, offers in found.items():
            if isinstance(offers, Failure):
                message = f"{alias}: {offers.message}"
                failed = evolve(offers, message=message)
                return Performed(command, DiscoveryFailed(command.attempt, failed))
        known = {a: o for a, o in found.items() if not isinstance(o, Failure)}
        toolbox = self.drive.equip({**self.drive.catalogs, **known})
        notes: dict[str, Any] = {}
        if toolbox.dropped:
            notes["dropped_tools"] = list(toolbox.dropped)
        if left_out := self._left_out(command):
            notes["left_out"] = left_out
        told: tuple[Told, ...] = (("text_normalised", notes),) if notes else ()
        return Performed(command, Discovered(toolbox.routing), told=told)

    def _left_out(self, command: Discover) -> list[str]:
        """What the servers themselves left out of their catalogs, and why."""
        reports = [
            f"{alias}: {line}"
            for alias in command.servers
            for line in _reports(self.drive.servers[alias])
        ]
        return reports[:MAX_REPORTS]


def _reports(server: ToolServer) -> tuple[str, ...]:
    found = getattr(server, "reports", ())
    return found if isinstance(found, tuple) else ()


def perform(performer: Performer, effect: Effect) -> Performed:
    """Perform an effect on this thread."""
    if isinstance(effect, Infer):
        return _infer(performer, effect)
    if isinstance(effect, Call):
        return _call(performer, effect)
    return _discover(performer, effect)


def _infer(performer: Performer, command: Infer) -> Performed:
    session = performer.session()
    on_delta = performer.delta_sink(command)
    job = performer.job(command, streamed=on_delta is not None)
    try:
        found = session.infer(command, job, on_delta)
        return performer.inferred(command, found)
    except (LeaseLostError, StoreUnavailableError):
        raise  # the store kept nothing of what was to be remembered: the drive ends
    except Exception as error:
        return performer.crashed(command, error)


def _call(performer: Performer, call: Call) -> Performed:
    server = performer.drive.servers[call.route.alias]
    try:
        return performer.called(call, server.call(performer.call_of(call)))
    except Exception as error:
        return performer.tool_crashed(call, error)


def _discover(performer: Performer, command: Discover) -> Performed:
    """Ask many servers at once; threads of its own, because this is rare."""
    aliases = command.servers
    at_once = min(len(aliases), ASKED_AT_ONCE)
    with ThreadPoolExecutor(at_once, "agentloop-discovery") as pool:
        found = pool.map(lambda alias: _ask(performer, alias), aliases)
        return performer.discovered(command, dict(zip(aliases, found, strict=True)))


def _ask(performer: Performer, alias: str) -> tuple[Offer, ...] | Failure:
    try:
        server = performer.drive.servers[alias]
        return catalog(server.discover(performer.time_to_list()))
    except Exception as error:
        message = f"the server raised {type(error).__name__}"
        return Failure(kind="discovery_refused", message=message)


def catalog(found: object) -> tuple[Offer, ...] | Failure:
    """What a server listed, or a failure when that is nothing a server may list."""
    if isinstance(found, Failure):
        return found
    if isinstance(found, tuple) and all(isinstance(offer, Offer) for offer in found):
        return found
    kind = type(found).__name__
    message = f"the server listed its tools as {kind}, not as a tuple of Offer"
    return Failure(kind="discovery_refused", message=message)


def _addressed(
    command: Infer, event: ModelReplied | ModelFailed
) -> ModelReplied | ModelFailed:
    """The event as the answer to its command, whatever a backend numbered it.

    Under another number it would count as a late one, and the model be asked anew.
    """
    if event.iteration == command.iteration and event.attempt == command.attempt:
        return event
    return evolve(event, iteration=command.iteration, attempt=command.attempt)


def _as_given(report: AttemptReport) -> AttemptReport:
    """The report as it is now: lists of a careless backend's may still grow."""
    if type(report.notes) is tuple and type(report.preceding) is tuple:
        return report
    notes, preceding = tuple(report.notes or ()), tuple(report.preceding or ())
    return evolve(report, notes=notes, preceding=preceding)


def _check_texts(record: Attempted) -> None:
    """Have it found out now if something has no text; it may be read long after.

    Raises:
        TypeError, WireError: a backend reported such a thing against its contract.
    """
    report = record.report
    for text in (report.provider_request_id, report.request_sha256, report.response):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"a backend reported {type(text).__name__} for a text")
    for one in report.preceding:
        if not isinstance(one, Preceding):
            raise TypeError(f"a backend reported {type(one).__name__} as preceding")
    if record.failure is not None or report.notes or report.preceding:
        _ = record.body  # made for this alone, which is rare


def _check_failure(failure: Failure) -> None:
    """The same for what a tool server says of its failure, which is told in events.

    Raises:
        TypeError: it holds what is no text.
    """
    for text in (failure.kind, failure.message, failure.code or ""):
        if not isinstance(text, str):
            raise TypeError(f"a failure has {type(text).__name__} for a text")


def _told_the_model(call: Call, text: str) -> Performed:
    return Performed(call, ToolReturned(call.key, (Text(text),), is_error=True))


def _failed(command: Infer, failure: Failure) -> Inference:
    event = ModelFailed(
        iteration=command.iteration, attempt=command.attempt, failure=failure
    )
    return Inference(event, AttemptReport())


def _storable(
    content: tuple[Content, ...], max_bytes: int
) -> tuple[tuple[Content, ...], int]:
    """The content with texts cleaned, within the cap on its JSON text.

    Raises:
        WireError: it has no JSON form, or its text is longer than the cap.
    """
    rough, texts = 0, 0
    for block in content:
        if type(block) is Text:
            rough, texts = rough + len(block.text), texts + 1
    if rough > max_bytes:
        raise WireError("$", f"{rough} characters exceed the {max_bytes} allowed")
    content, changed = clean_blocks(content)
    if texts < len(content):
        size = len(dump([to_json(block) for block in content]))
        if size > max_bytes:
            raise WireError("$", f"{size} bytes exceed the {max_bytes} allowed")
    return content, changed
