"""Starting runs: the checks in the contract's order, then the row, then the engine.

`Starting.start` spells the order out. Nothing is written before all checks pass, and
nothing of a run is driven here.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve, frozen

from agentloop.core.catalog import Failure, RequestError
from agentloop.core.config import Config, ToolChoice, split_wire_name
from agentloop.core.content import Message
from agentloop.core.history import check_nothing_pending, check_outputs
from agentloop.core.request import Payload, StartRequest, ToolOutputs, check_payload
from agentloop.core.routing import (
    Catalogs,
    Offer,
    check_tool_choice,
    declared_catalogs,
    on_the_wire,
)
from agentloop.core.run import Run, Scope
from agentloop.ports import (
    ConversationRow,
    EngineUnavailableError,
    Ids,
    NewRunRow,
    Reader,
    RunRef,
    RunRow,
    Store,
    VersionMovedError,
)
from agentloop.runtime import present
from agentloop.runtime.callers import Visible, as_scope, key_of, value_of
from agentloop.runtime.caps import check_size
from agentloop.runtime.configs import Configs
from agentloop.runtime.prepare import Resources
from agentloop.wire import dump, message_from, to_json

log = logging.getLogger("agentloop")
CHOICE_CHECK_TIMEOUT: Final = 5.0
"""Seconds for the one look at a discovered server before a run is written."""


@frozen
class Starting:
    """Starts the runs of one loop."""

    resources: Resources
    ids: Ids
    configs: Configs
    visible: Visible

    @property
    def _store(self) -> Store:
        return self.resources.store

    def start(
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
        check_size(request, self.resources.options.limits)
        row = self.visible.conversation(conversation_id, scope)
        key = key_of(request)
        found = self._store.find_run(conversation_id, key)
        if found is not None:
            self._hand_over(found)
            return present.run(found, self.resources.options.docs_base), False
        body, changed = value_of(request, StartRequest)
        check_payload(body.payload)
        if body.expected_version != row.version:
            raise _conflict(body.expected_version, row.version)
        # The key as it was looked up: a uuid is the same one in any case.
        new = self._checked_run(row, evolve(body, client_op_id=key), scope, patience)
        if replaced + changed:
            told = present.payload_text(body.payload, replaced + changed)
            new = evolve(new, payload=told)
        stored, created = self._inserted(new)
        self._hand_over(stored)
        return present.run(stored, self.resources.options.docs_base), created

    def _inserted(self, new: NewRunRow) -> tuple[RunRow, bool]:
        """The row of a run, unless somebody was faster since it was checked."""
        try:
            return self._store.insert_run(new)
        except VersionMovedError as moved:
            raise _conflict(moved.expected, moved.current) from None
        except LookupError:
            raise RequestError("conversation-not-found") from None

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
        config, text = self.configs.of_run(row, body.config_override)
        choice = body.tool_choice
        backend = self.resources.choose_backend(config)
        self._check_choice(choice, config, scope, patience)
        backend.check(config, on_the_wire(choice))
        self._check_history(row, body.payload, config)
        return NewRunRow(
            id=self.ids.new(),
            conversation_id=row.id,
            company_id=scope.company_id,
            user_id=scope.user_id,
            client_op_id=body.client_op_id,
            driver=self.resources.driver,
            expected_version=body.expected_version,
            config=text,
            payload=present.payload_text(body.payload, 0),
            tool_choice=None if choice is None else dump(to_json(choice)),
        )

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
        self, choice: ToolChoice | None, config: Config, scope: Scope, patience: float
    ) -> None:
        catalogs = self._catalogs(config)
        alias = check_tool_choice(choice, config, catalogs)
        if alias is None:
            return
        offers = self._ask(alias, config, scope, patience)
        if isinstance(offers, Failure):
            raise RequestError(
                "mcp-discovery-failed", alias=alias, problem=offers.message
            )
        check_tool_choice(choice, config, {**catalogs, alias: offers})

    def _ask(
        self, alias: str, config: Config, scope: Scope, patience: float
    ) -> tuple[Offer, ...] | Failure:
        """One look at a server whose catalog decides about a tool choice."""
        entry = next(s for s in config.mcp_servers or () if s.alias == alias)
        if entry.url is None:
            return self.resources.servers[alias].discover(patience)
        server = self.resources.directory.open(entry, scope)
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
            page = self._store.messages(reader, row.id, since, row.version)
            found = [message_from(r.body) for r in page.rows] if page else []
            if since == 0 or any(m.role == "assistant" for m in found):
                return found
            size *= 4


def _conflict(expected: int, current: int) -> RequestError:
    return RequestError("version-conflict", expected=expected, current=current)
