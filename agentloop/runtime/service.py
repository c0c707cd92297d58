"""The resources of one loop: conversations, runs, events and jobs, for a face.

What starts a run, and what shows a job, are rooms of their own. All methods are
synchronous; an asynchronous face calls them where blocking is allowed.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import fields_dict

from agentloop.core.catalog import RequestError
from agentloop.core.config import Config
from agentloop.core.request import NewConversation
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
    EngineUnavailableError,
    Ids,
    NewConversationRow,
    Reader,
    RunRef,
    RunRow,
)
from agentloop.runtime import present
from agentloop.runtime.callers import (
    Visible,
    as_scope,
    bad_request,
    check_id,
    check_number,
    value_of,
)
from agentloop.runtime.caps import check_size
from agentloop.runtime.configs import Configs
from agentloop.runtime.lately import by_text
from agentloop.runtime.prepare import Resources
from agentloop.runtime.requests import Again
from agentloop.runtime.starting import CHOICE_CHECK_TIMEOUT, Starting
from agentloop.wire import WireError, to_json, undump

if TYPE_CHECKING:
    from agentloop.runtime.jobs import Jobs

log = logging.getLogger("agentloop")
MAX_PER_PAGE = 200
_LAST_PAGE = 2**40
"""So that the place of its first record is a number that every store takes."""
_FIELDS = tuple(fields_dict(Config))


class Service:
    """The resources of one loop, over its store."""

    def __init__(self, resources: Resources, ids: Ids) -> None:
        self.resources = resources
        self.store = resources.store
        self._options = resources.options
        self._ids = ids
        self._visible = Visible(self.store, self._options.visibility == "user")
        self._configs = Configs(resources)
        self._body_of = by_text(self._checked_body)
        self._starting = Starting(resources, ids, self._configs, self._visible)

    # ------------------------------------------------------------ conversations

    def create_conversation(self, request: Any, scope: Scope) -> Conversation:
        """Check and store a conversation (contract section 2.1)."""
        scope = as_scope(scope)
        check_size(request, self._options.limits)
        row = self.store.create_conversation(
            NewConversationRow(
                body=self._body_of(request),
                id=self._ids.new(),
                company_id=scope.company_id,
                user_id=scope.user_id,
            )
        )
        return present.conversation(row)

    def _checked_body(self, request: Any) -> str:
        """What is stored of a request that may be stored."""
        new, _ = value_of(request, NewConversation)
        self._configs.check_defaults(new.defaults)
        return present.conversation_body(new)

    def get_conversation(self, conversation_id: str, scope: Scope) -> Conversation:
        """A conversation by id (contract section 2.2)."""
        return present.conversation(self._visible.conversation(conversation_id, scope))

    def version(self, conversation_id: str, scope: Scope) -> int:
        """The version of a conversation as it is now."""
        return self._visible.conversation(conversation_id, scope).version

    def list_conversations(self, scope: Scope, page: int, per_page: int) -> Page:
        """The caller's own conversations, newest first (contract section 2.3)."""
        check_number("page", page, 1, _LAST_PAGE)
        check_number("per_page", per_page, 1, MAX_PER_PAGE)
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
        check_id("conversation_id", conversation_id, "conversation-not-found")
        if not self.store.delete_conversation(
            self._visible.reader(scope), conversation_id
        ):
            raise RequestError("conversation-not-found")

    def messages(self, conversation_id: str, since: int, scope: Scope) -> MessageDelta:
        """The messages after a version (contract section 2.4)."""
        check_id("conversation_id", conversation_id, "conversation-not-found")
        check_number("since", since, 0)
        page = self.store.messages(self._visible.reader(scope), conversation_id, since)
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
        """Start a run, or find the one of the same key; see `Starting.start`."""
        start = self._starting.start
        return start(
            conversation_id, request, scope, replaced=replaced, patience=patience
        )

    # ------------------------------------------------------------ reading runs

    def get_run(self, run_id: str, scope: Scope) -> Run:
        """A run by id (contract section 2.6)."""
        return self.shown(self.row(run_id, scope))

    def shown(self, row: RunRow) -> Run:
        """A run that was read already."""
        return present.run(row, self._options.docs_base)

    def row(self, run_id: str, scope: Scope) -> RunRow:
        """The stored row of a run that the caller may see."""
        return self._visible.run(run_id, scope)

    def list_runs(self, conversation_id: str, scope: Scope) -> tuple[Run, ...]:
        """The runs of a conversation, oldest first."""
        self._visible.conversation(conversation_id, scope)
        rows = self.store.list_runs(self._visible.reader(scope), conversation_id)
        return tuple(map(self.shown, rows))

    def request_of(self, run_id: str, scope: Scope) -> Again:
        """What an ended run was asked to do, to be asked again."""
        row = self.row(run_id, scope)
        if row.result is None:
            raise bad_request(f"run {run_id} has not ended yet")
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
        check_id("run_id", run_id, "agent-run-not-found")
        row = self.store.request_cancel(self._visible.reader(scope), run_id)
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
        check_number("after", after, 0)
        rows = self.store.events(self._visible.reader(scope), run_id, after)
        return tuple(map(present.event, rows))

    # ------------------------------------------------------------ jobs

    def inference_job(self, job_id: str, scope: Scope) -> InferenceJob:
        """A job with its exact request and response (contract section 12)."""
        return self._jobs().get(job_id, scope)

    def list_jobs(self, run_id: str, scope: Scope) -> tuple[InferenceJob, ...]:
        """The jobs of a run by iteration, with their requests and responses."""
        return self._jobs().of_run(run_id, scope)

    def _jobs(self) -> "Jobs":
        from agentloop.runtime.jobs import Jobs  # only who looks closer asks for them

        return Jobs(self.resources, self._visible)
