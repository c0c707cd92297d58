"""Everything about conversations and runs that is not driving them.

Requests are checked here in the order of the contract (`start_run` spells it
out), written only when all checks pass, and read back as resources. All methods
are synchronous; an asynchronous face calls them where blocking is allowed.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from attrs import evolve, fields_dict

from agentloop.core.catalog import Failure, RequestError
from agentloop.core.config import (
    Config,
    Override,
    ToolChoice,
    callers_tools,
    merge,
    split_wire_name,
    validate,
    with_registered,
)
from agentloop.core.content import JsonObject, Message
from agentloop.core.history import check_nothing_pending, check_outputs
from agentloop.core.phases import Infer, Log
from agentloop.core.request import (
    NewConversation,
    Payload,
    StartRequest,
    ToolOutputs,
    check_payload,
)
from agentloop.core.routing import (
    Catalogs,
    Offer,
    assemble,
    check_tool_choice,
    declared_catalogs,
    on_the_wire,
)
from agentloop.core.run import (
    Conversation,
    InferenceJob,
    MessageDelta,
    Page,
    Run,
    RunEvent,
    Scope,
)
from agentloop.ports import (
    AttemptRow,
    Clock,
    ConversationRow,
    EngineUnavailableError,
    Ids,
    JobContext,
    JobRow,
    MissingExtraError,
    NewConversationRow,
    NewRunRow,
    Reader,
    RunRef,
    RunRow,
    SessionSetup,
    VersionMovedError,
)
from agentloop.runtime import checks, present
from agentloop.runtime.caps import check_size
from agentloop.runtime.prepare import Resources
from agentloop.runtime.requests import Again
from agentloop.schema import compile_schema
from agentloop.wire import (
    WireError,
    clean,
    dump,
    is_uuid,
    load,
    message_from,
    to_json,
    undump,
)
from agentloop.wire.checkpoint import setup_from, unversioned

log = logging.getLogger("agentloop")
MAX_PER_PAGE = 200
_LAST_PAGE = 2**40
"""So that the place of its first record is a number that every store takes."""
_LARGEST_ID = 2**63
_FIELDS = tuple(fields_dict(Config))
_TOOL_FIELDS = frozenset({"client_tools", "tools"})
CHOICE_CHECK_TIMEOUT = 5.0
"""Seconds for the one look at a discovered server before a run is written."""


class Service:
    """The resources of one loop, over its store."""

    def __init__(self, resources: Resources, ids: Ids, clock: Clock) -> None:
        self.resources = resources
        self.store = resources.store
        self._options = resources.options
        self._ids = ids
        self._clock = clock

    # ------------------------------------------------------------ conversations

    def create_conversation(self, request: Any, scope: Scope) -> Conversation:
        """Check and store a conversation (contract section 2.1)."""
        scope = as_scope(scope)
        check_size(request, self._options.limits)
        new, _ = _value(request, NewConversation, "invalid-request")
        with _inside("$.defaults"):
            config = self._offering(new.defaults)
            self._check_config(config)
            _check_callers_schemas(config)
        row = self.store.create_conversation(
            NewConversationRow(
                id=self._ids.new(),
                company_id=scope.company_id,
                user_id=scope.user_id,
                body=present.conversation_body(new),
            )
        )
        return present.conversation(row)

    def get_conversation(self, conversation_id: str, scope: Scope) -> Conversation:
        """A conversation by id (contract section 2.2)."""
        return present.conversation(self._conversation(conversation_id, scope))

    def list_conversations(self, scope: Scope, page: int, per_page: int) -> Page:
        """The caller's own conversations, newest first (contract section 2.3)."""
        _number("page", page, 1, _LAST_PAGE)
        _number("per_page", per_page, 1, MAX_PER_PAGE)
        scope = as_scope(scope)
        own = Reader(scope.company_id, scope.user_id)
        rows, total = self.store.list_conversations(
            own, (page - 1) * per_page, per_page
        )
        pages = -(-total // per_page)
        return Page(
            current_page=page,
            total_records=total,
            total_pages=pages,
            records=tuple(map(present.conversation, rows)),
            prev_page=min(page - 1, pages) or None,
            next_page=page + 1 if page < pages else None,
        )

    def delete_conversation(self, conversation_id: str, scope: Scope) -> None:
        """Remove a conversation with all of its runs."""
        _check_id("conversation_id", conversation_id, "conversation-not-found")
        if not self.store.delete_conversation(self._reader(scope), conversation_id):
            raise RequestError("conversation-not-found")

    def messages(self, conversation_id: str, since: int, scope: Scope) -> MessageDelta:
        """The messages after a version (contract section 2.4)."""
        _check_id("conversation_id", conversation_id, "conversation-not-found")
        _number("since", since, 0)
        page = self.store.messages(self._reader(scope), conversation_id, since)
        if page is None:
            raise RequestError("conversation-not-found")
        return MessageDelta(
            current_version=page.version,
            messages=tuple(map(present.message, page.rows)),
        )

    # ------------------------------------------------------------ starting runs

    def start_run(
        self,
        conversation_id: str,
        request: Mapping[str, Any],
        scope: Scope,
        *,
        replaced: int = 0,
        patience: float = CHOICE_CHECK_TIMEOUT,
    ) -> tuple[Run, bool]:
        """Start a run, or find the one that was started under the same key.

        The order of checks is the contract's: size, scope, the key's shape, replay,
        the rest of the body, version, config, tool choice, payload against history.

        Args:
            conversation_id: the conversation to continue.
            request: the body.
            scope: whose call this is.
            replaced: how many characters were replaced when the body was parsed.
            patience: seconds for which a server is asked that the choice depends on.

        Returns:
            The run, and whether it is new.
        """
        scope = as_scope(scope)
        check_size(request, self._options.limits)
        row = self._conversation(conversation_id, scope)
        key = _key(request)
        found = self.store.find_run(conversation_id, key)
        if found is not None:
            self._hand_over(found)
            return present.run(found, self._options.docs_base), False
        body, changed = _value(request, StartRequest, "invalid-request")
        check_payload(body.payload)
        if body.expected_version != row.version:
            raise _conflict(body.expected_version, row.version)
        # The key as it was looked up: a uuid is the same one in any case.
        new = self._checked_run(row, evolve(body, client_op_id=key), scope, patience)
        if replaced + changed:
            told = present.payload_text(body.payload, replaced + changed)
            new = evolve(new, payload=told)
        try:
            stored, created = self.store.insert_run(new)
        except VersionMovedError as moved:
            raise _conflict(moved.expected, moved.current) from None
        except LookupError:
            raise RequestError("conversation-not-found") from None
        self._hand_over(stored)
        return present.run(stored, self._options.docs_base), created

    def _hand_over(self, row: RunRow) -> None:
        """Have the engine drive a run; a repeat heals one that it never heard of."""
        engine = self.resources.engine
        if engine is None or row.status != "pending" or row.driver != engine.name:
            return
        try:
            engine.start(RunRef(row.id, row.company_id))
        except EngineUnavailableError as error:
            told, about = "%s did not take run %s: %s", {"run_id": row.id}
            log.warning(told, engine.name, row.id, error, extra=about)
            raise RequestError("workflow-start-failed") from None

    def _checked_run(
        self, row: ConversationRow, body: StartRequest, scope: Scope, patience: float
    ) -> NewRunRow:
        config = self._effective(row, body.config_override)
        choice = body.tool_choice
        backend = self.resources.choose_backend(config)
        self._check_choice(choice, config, patience)
        backend.check(config, on_the_wire(choice))
        self._check_history(row, body.payload, config)
        return NewRunRow(
            id=self._ids.new(),
            conversation_id=row.id,
            company_id=scope.company_id,
            user_id=scope.user_id,
            client_op_id=body.client_op_id,
            driver=self.resources.driver,
            expected_version=body.expected_version,
            config=dump(to_json(config)),
            payload=present.payload_text(body.payload, 0),
            tool_choice=None if choice is None else dump(to_json(choice)),
        )

    def _effective(self, row: ConversationRow, override: Override | None) -> Config:
        config = self._offering(merge(present.body_of(row).defaults, override))
        self._check_config(config)
        if override is not None and _TOOL_FIELDS & override.changes.keys():
            _check_callers_schemas(config)  # those of the defaults are checked
        self.resources.check_servers(config)
        return config

    def _check_config(self, config: Config) -> None:
        """The rules on configs, and that its schema is one at all."""
        validate(config, self.resources.servers)
        if config.output_format_schema is not None:
            _check_schema("$.output_format_schema", config.output_format_schema)

    def _offering(self, config: Config) -> Config:
        return with_registered(config, self.resources.servers)

    def _catalogs(self, config: Config) -> Catalogs:
        servers = self.resources.servers
        offered = {alias: server.declared() for alias, server in servers.items()}
        known = {alias: offers or () for alias, offers in offered.items()}
        catalogs = dict(declared_catalogs(config, known))
        for server in config.mcp_servers or ():
            if server.url is None and offered[server.alias] is None:
                catalogs[server.alias] = None
        return catalogs

    def _check_choice(
        self, choice: ToolChoice | None, config: Config, patience: float
    ) -> None:
        catalogs = self._catalogs(config)
        alias = check_tool_choice(choice, config, catalogs)
        if alias is None:
            return
        offers = self._ask(alias, config, patience)
        if isinstance(offers, Failure):
            raise RequestError(
                "mcp-discovery-failed", alias=alias, problem=offers.message
            )
        check_tool_choice(choice, config, {**catalogs, alias: offers})

    def _ask(
        self, alias: str, config: Config, patience: float
    ) -> tuple[Offer, ...] | Failure:
        """One look at a server whose catalog decides about a tool choice."""
        entry = next(s for s in config.mcp_servers or () if s.alias == alias)
        if entry.url is None:
            return self.resources.servers[alias].discover(patience)
        server = self.resources.directory.open(entry)
        try:
            return server.discover(patience)
        finally:
            server.close()

    def _check_history(
        self, row: ConversationRow, payload: Payload, config: Config
    ) -> None:
        tail = self._tail(row)
        if not isinstance(payload, ToolOutputs):
            check_nothing_pending(tail)
            return
        aliases = {server.alias for server in config.mcp_servers or ()}
        ids = [output.tool_use_id for output in payload.outputs]
        check_outputs(
            row.id,
            tail,
            ids,
            lambda name: (split_wire_name(name) or ("",))[0] in aliases,
        )

    def _tail(self, row: ConversationRow) -> list[Message]:
        """The conversation from its last assistant message on, or all of it."""
        reader, size = Reader(row.company_id), 4
        while True:
            since = max(row.version - size, 0)
            page = self.store.messages(reader, row.id, since, row.version)
            found = [message_from(r.body) for r in page.rows] if page else []
            if since == 0 or any(m.role == "assistant" for m in found):
                return found
            size *= 4

    # ------------------------------------------------------------ reading runs

    def get_run(self, run_id: str, scope: Scope) -> Run:
        """A run by id (contract section 2.6)."""
        return present.run(self.row(run_id, scope), self._options.docs_base)

    def row(self, run_id: str, scope: Scope) -> RunRow:
        """The stored row of a run that the caller may see."""
        _check_id("run_id", run_id, "agent-run-not-found")
        row = self.store.get_run(self._reader(scope), run_id)
        if row is None:
            raise RequestError("agent-run-not-found")
        return row

    def list_runs(self, conversation_id: str, scope: Scope) -> tuple[Run, ...]:
        """The runs of a conversation, oldest first."""
        self._conversation(conversation_id, scope)
        rows = self.store.list_runs(self._reader(scope), conversation_id)
        return tuple(present.run(row, self._options.docs_base) for row in rows)

    def request_of(self, run_id: str, scope: Scope) -> Again:
        """What an ended run was asked to do, to be asked again."""
        row = self.row(run_id, scope)
        if row.result is None:
            raise _bad_request(f"run {run_id} has not ended yet")
        try:
            config = to_json(present.config_of(row))
            payload, _ = present.payload_of(row)
            start = {
                "payload": to_json(payload),
                "tool_choice": undump(row.tool_choice) if row.tool_choice else None,
                "config_override": {name: config.get(name) for name in _FIELDS},
            }
        except WireError as error:
            raise present.StoredFieldError(str(error)) from None
        return Again(row.conversation_id, start)

    def request_cancel(self, run_id: str, scope: Scope) -> RunRow:
        """Flag a run; whoever drives it, or takes it over, ends it."""
        _check_id("run_id", run_id, "agent-run-not-found")
        row = self.store.request_cancel(self._reader(scope), run_id)
        if row is None:
            raise RequestError("agent-run-not-found")
        self._wake(row)
        return row

    def _wake(self, row: RunRow) -> None:
        """Let an engine's run see its flag now; it will at its next command anyway."""
        engine = self.resources.engine
        if engine is None or row.result is not None or row.driver != engine.name:
            return
        try:
            engine.cancel(RunRef(row.id, row.company_id))
        except EngineUnavailableError as error:
            told, about = "%s did not hear of a cancel: %s", {"run_id": row.id}
            log.warning(told, engine.name, error, extra=about)

    def events(self, run_id: str, after: int, scope: Scope) -> tuple[RunEvent, ...]:
        """The kept events of a run after an id."""
        _number("after", after, 0)
        rows = self.store.events(self._reader(scope), run_id, after)
        return tuple(map(present.event, rows))

    # ------------------------------------------------------------ jobs

    def inference_job(self, job_id: str, scope: Scope) -> InferenceJob:
        """A job with its exact request and response (contract section 12)."""
        _check_id("job_id", job_id, "inference-job-not-found")
        found = self.store.get_job(self._reader(scope), job_id)
        if found is None:
            raise RequestError("inference-job-not-found")
        job_row, attempts, run_row = found
        job = present.job(job_row, attempts, run_row)
        try:
            body = self._request(job_row, run_row, attempts)
            request = undump(body.decode())
        except (WireError, LookupError, RequestError, ValueError):
            return job
        sent = {unversioned(row.body).get("request_sha256") for row in attempts}
        digest = hashlib.sha256(body).hexdigest()
        return evolve(
            job,
            request=request,
            request_verified=digest in sent if sent - {None} else None,
        )

    def list_jobs(self, run_id: str, scope: Scope) -> tuple[InferenceJob, ...]:
        """The jobs of a run by iteration, with their requests and responses."""
        self.row(run_id, scope)
        rows = self.store.list_jobs(self._reader(scope), run_id)
        return tuple(self.inference_job(row.id, scope) for row in rows)

    def _request(
        self, job: JobRow, run: RunRow, attempts: tuple[AttemptRow, ...]
    ) -> bytes:
        """The request of a job, encoded again from what it was made of."""
        config = present.config_of(run)
        reader = Reader(run.company_id)
        row = self.store.get_conversation(reader, run.conversation_id)
        page = self.store.messages(reader, run.conversation_id, until=run.base_version)
        setup = self.store.run_setup(run.id)
        if row is None or page is None or setup is None:
            raise LookupError(job.id)
        catalogs = setup_from(setup).catalogs
        session = self.resources.choose_backend(config).session(
            SessionSetup(
                config=config,
                system=present.body_of(row).system_prompt,
                specs=assemble(config, catalogs).specs,
                history=tuple(message_from(r.body) for r in page.rows),
            )
        )
        facts = unversioned(job.body)
        texts = self.store.run_messages(run.id)[: facts["messages"]]
        choice: ToolChoice = load(facts["tool_choice"], ToolChoice)
        number = attempts[-1].number if attempts else 1
        sent = unversioned(attempts[-1].body) if attempts else {}
        context = JobContext(job_id=job.id, streamed=bool(sent.get("streamed")))
        log = Log(*map(message_from, texts))
        command = Infer(job.iteration, number, 0.0, 0.0, choice, log)
        return session.request(command, context)

    def _reader(self, scope: Scope) -> Reader:
        scope = as_scope(scope)
        own = self._options.visibility == "user"
        return Reader(scope.company_id, scope.user_id if own else None)

    def _conversation(self, conversation_id: str, scope: Scope) -> ConversationRow:
        _check_id("conversation_id", conversation_id, "conversation-not-found")
        row = self.store.get_conversation(self._reader(scope), conversation_id)
        if row is None:
            raise RequestError("conversation-not-found")
        return row


@contextmanager
def _inside(path: str) -> Iterator[None]:
    """Have refusals of a config name their place in the body that it came in."""
    try:
        yield
    except RequestError as error:
        problem = str(error.facts.get("problem", ""))
        if error.slug != "invalid-config" or not problem.startswith("$"):
            raise
        raise RequestError("invalid-config", problem=path + problem[1:]) from None


def _check_schema(path: str, schema: JsonObject) -> None:
    try:
        compile_schema(schema)
    except WireError as error:
        problem = f"{path}{error.path[1:]}: {error.problem}"
        raise RequestError("invalid-config", problem=problem) from None


def _check_callers_schemas(config: Config) -> None:
    """That the tools which the caller answers have schemas that are some at all.

    Providers refuse others only when the run has begun. What an MCP server declares
    is mended by the backends, and a host that cannot compile schemas is let be.
    """
    with suppress(MissingExtraError):
        for path, spec in callers_tools(config):
            _check_schema(f"{path}.input_schema", spec.input_schema)


def as_scope(scope: Scope | Mapping[str, Any]) -> Scope:
    """The scope of a call, also from a plain dict.

    Raises:
        TypeError: it is neither, or its ids are no integers.
        ValueError: an id is beyond what every store takes.
    """
    if isinstance(scope, Mapping):
        if scope.keys() != {"company_id", "user_id"}:
            raise TypeError("scope needs exactly company_id and user_id")
        scope = Scope(scope["company_id"], scope["user_id"])
    if not isinstance(scope, Scope):
        raise TypeError(f"scope must be an agentloop.Scope, not {scope!r}")
    for value in (scope.company_id, scope.user_id):
        if type(value) is not int:
            raise TypeError(f"a scope's ids are integers, not {value!r}")
        if not -_LARGEST_ID <= value < _LARGEST_ID:
            raise ValueError(f"a scope's ids have 64 bits at most, not {value}")
    return scope


def _check_id(name: str, value: object, slug: str) -> None:
    """That an id can be one; what is no uuid is as unknown as any other."""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"{name} must be text, not {kind}; pass its id")
    if not is_uuid(value):
        raise RequestError(slug)


def _number(name: str, value: object, least: int, most: int = 2**53) -> None:
    try:
        checks.whole(name, value, least, most)
    except (TypeError, ValueError) as error:
        raise _bad_request(str(error)) from None


def _bad_request(problem: str) -> RequestError:
    return RequestError("invalid-request", problem=problem)


def _conflict(expected: int, current: int) -> RequestError:
    return RequestError("version-conflict", expected=expected, current=current)


def _key(request: Mapping[str, Any]) -> str:
    if not isinstance(request, Mapping):
        raise _bad_request("$: must be an object")
    key = request.get("client_op_id")
    if not isinstance(key, str) or not is_uuid(key):
        raise _bad_request(f"$.client_op_id: must be a uuid, not {key!r:.60}")
    return key.lower()


def _value(value: Any, type_: type, slug: str) -> tuple[Any, int]:
    """A caller's JSON as a value, cleaned of what no store takes, and how much was."""
    try:
        cleaned, replaced = clean(value)
        return load(cleaned, type_), replaced
    except WireError as error:
        raise RequestError(slug, problem=str(error)) from None
