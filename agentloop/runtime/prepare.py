"""From a claimed row to a drive: what a run needs before its first command.

Whatever is wrong with stored rows ends the run with the documented type instead of
raising; the caller of a drive never sees the inside of a row.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import define, field, frozen

from agentloop.core.catalog import RequestError, describe
from agentloop.core.config import Config, ToolChoice
from agentloop.core.content import Message
from agentloop.core.machine import start, step
from agentloop.core.phases import (
    CancelRequested,
    DeadlinePassed,
    Discovering,
    Failed,
    Finished,
    Inferring,
    Log,
    LoopState,
    Plan,
    Recovered,
)
from agentloop.core.request import Payload, opening
from agentloop.core.routing import (
    Catalogs,
    Offer,
    Toolbox,
    assemble,
    declared_catalogs,
    on_the_wire,
)
from agentloop.core.run import Usage
from agentloop.ports import (
    AttemptRow,
    Backend,
    Claim,
    Engine,
    LeaseLostError,
    MessagePage,
    Reader,
    RunRow,
    ServerDirectory,
    Session,
    SessionSetup,
    Store,
    StoreUnavailableError,
    ToolServer,
)
from agentloop.runtime import present
from agentloop.runtime.narrate import Told
from agentloop.runtime.options import Options
from agentloop.runtime.records import lost_row
from agentloop.wire import WireError, message_from
from agentloop.wire.checkpoint import (
    StoredSetup,
    is_idle,
    remembered_in,
    setup_from,
    setup_text,
    state_from,
    unversioned,
    versioned,
)

log = logging.getLogger("agentloop")
_ANY_PHASE = {"kind": "inferring", "try": [1, 0.0, 0.0]}
DRIVER = "embedded"


@frozen
class Resources:
    """What every drive of a loop shares: ports and the host's choices.

    With an `engine` new runs are the engine's; without one they are driven here.
    """

    store: Store
    choose_backend: Callable[[Config], Backend]
    servers: Mapping[str, ToolServer]
    directory: ServerDirectory
    options: Options
    engine: Engine | None = None

    @property
    def driver(self) -> str:
        """What the rows of new runs name as their driver."""
        return DRIVER if self.engine is None else self.engine.name

    def check_servers(self, config: Config) -> None:
        """Refuse a server that the host's directory can tell it would not open.

        Raises:
            RequestError: `invalid-config`, with the JSON path.
        """
        check = getattr(self.directory, "check", None)
        if check is None:
            return
        for i, server in enumerate(config.mcp_servers or ()):
            if server.url is None:
                continue
            try:
                check(server)
            except RequestError as error:
                problem = error.facts.get("problem", error.detail)
                path = f"$.mcp_servers[{i}].url"
                raise RequestError(error.slug, problem=f"{path}: {problem}") from None


@define
class Drive:
    """A run that is ready to be driven.

    `session` is made when the toolbox is known: at once, or after discovery.
    `remembered` is what the backend left for the attempt that comes first.
    `opened` are the servers that this drive must close. `told` is what the first
    commit of the run tells of its request.
    """

    row: RunRow
    state: LoopState
    config: Config
    backend: Backend | None = None
    system: str | None = None
    history: tuple[Message, ...] = ()
    servers: dict[str, ToolServer] = field(factory=dict)
    opened: tuple[ToolServer, ...] = ()
    catalogs: dict[str, tuple[Offer, ...] | None] = field(factory=dict)
    toolbox: Toolbox | None = None
    session: Session | None = None
    lost: AttemptRow | None = None
    remembered: str | None = None
    told: tuple[Told, ...] = ()

    def equip(self, catalogs: Catalogs) -> Toolbox:
        """Take the complete catalogs; from now on there is a session."""
        if self.backend is None:
            raise AssertionError("a drive without a backend has finished already")
        self.catalogs = dict(catalogs)
        self.toolbox = assemble(self.config, catalogs)
        setup = SessionSetup(
            config=self.config,
            system=self.system,
            specs=self.toolbox.specs,
            history=self.history,
        )
        try:
            self.session = self.backend.session(setup)
        except RequestError as error:
            raise _invalid_config(error.detail) from None
        except Exception as error:
            told = "the backend made no session for run %s"
            log.exception(told, self.row.id, extra={"run_id": self.row.id})
            problem = f"the backend raised {type(error).__name__} for a session"
            raise BrokenRunError(
                "JobFailed", describe("JobFailed", problem=problem)
            ) from error
        return self.toolbox

    def setup(self) -> str:
        """The text that stores what this run decided once."""
        known = {alias: offers or () for alias, offers in self.catalogs.items()}
        return setup_text(StoredSetup(plan=self.state.plan, catalogs=known))


class BrokenRunError(Exception):
    """A run that cannot be driven; carries the outcome it ends with."""

    def __init__(self, type_: str, message: str) -> None:
        self.outcome = Failed(type_, message)
        super().__init__(message)


def worker_lost(error: Exception) -> BrokenRunError:
    """What a run ends with when the code around it raised."""
    type_ = "AgentLoopWorkerLost"
    problem = f"its driver raised {type(error).__name__}"
    return BrokenRunError(type_, describe(type_, problem=problem))


def prepare(claim: Claim, resources: Resources) -> Drive:
    """Everything a claimed run needs; a broken one comes back finished.

    Raises:
        LeaseLostError, StoreUnavailableError: as the store does.
    """
    opened: list[ToolServer] = []
    try:
        drive = _prepared(claim, resources, opened)
    except BaseException as error:
        close_servers(opened)
        return _broken(claim, error)
    drive.opened = tuple(opened)
    return drive


def close_servers(servers: Iterable[ToolServer]) -> None:
    """Close each; one that cannot be closed is no fault of the run it served."""
    for server in servers:
        try:
            server.close()
        except Exception:
            log.exception("a tool server raised when it was closed")


def _broken(claim: Claim, error: BaseException) -> Drive:
    """The finished drive of a run that cannot be driven."""
    outcome = _outcome_of(error, claim.run.id)
    usage, lost = _left_behind(claim)
    state = LoopState(
        Plan(max_iterations=1),
        None,
        Finished(outcome),
        claim.run.iterations,
        Log(),
        usage,
    )
    return Drive(claim.run, state, Config(model=""), lost=lost)


def _outcome_of(error: BaseException, run_id: str) -> Failed:
    """How a run ends by what preparing it raised; raises what is no end."""
    match error:
        case BrokenRunError():
            return error.outcome
        case LeaseLostError() | StoreUnavailableError():
            raise error
        case Exception():
            # A run that is left as it was would fail the same way for ever.
            about = {"run_id": run_id}
            log.error("preparing run %s failed", run_id, exc_info=error, extra=about)
            return worker_lost(error).outcome
        case _:
            raise error


def _left_behind(claim: Claim) -> tuple[Usage, AttemptRow | None]:
    """What was spent before the run broke, and the attempt that its worker lost.

    Both as far as they can still be read: calls and messages are left out.
    """
    if claim.header is None:
        return Usage(), None
    try:
        header, run_id = unversioned(claim.header), claim.run.id
        phase = header.get("phase")
        inferring = isinstance(phase, dict) and phase.get("kind") == "inferring"
        phase = phase if inferring else _ANY_PHASE
        bare = versioned({**header, "phase": phase, "messages": 0})
        state = state_from(bare, Plan(max_iterations=1), None, (), {})
        if is_idle(claim.header) or not inferring:
            return state.usage, None
        remembered = remembered_in(claim.header)
        return state.usage.plus(None), _lost_attempt(state, run_id, remembered)
    except WireError:
        return Usage(), None


def _prepared(claim: Claim, resources: Resources, opened: list[ToolServer]) -> Drive:
    row = claim.run
    _refuse_killers(claim, resources.options)
    config = _decode("AgentLoopInvalidEffectiveConfig", present.config_of, row)
    choice = _decode("AgentLoopInvalidEffectiveConfig", present.tool_choice_of, row)
    read = present.payload_of
    payload, replaced = _decode("AgentLoopInvalidRequestPayload", read, row)
    drive = Drive(row, _first_state(payload), config)
    if replaced and claim.header is None:
        told = {"place": "request", "replaced": replaced}
        drive.told = (("text_normalised", told),)
    drive.system, drive.history = _conversation(row, resources.store)
    drive.backend = _backend(config, resources)
    try:
        _open_servers(drive, resources, opened)
    except RequestError as error:
        raise _unusable(str(error.facts.get("problem", error.detail))) from None
    stop = _reason_to_stop(claim)
    if claim.header is None:
        plan = _new_plan(drive, choice, resources.options)
        _begin(drive, plan, payload, stopping=stop is not None)
    else:
        _resume(drive, claim, resources.options, stopping=stop is not None)
    if stop is not None:
        drive.state = step(drive.state, stop)
        _end_what_runs(drive)
    return drive


def _refuse_killers(claim: Claim, options: Options) -> None:
    """End a run whose drivers died time and again before they committed anything.

    What kills them is likely to be in preparing it, so nothing of it may be done.

    Raises:
        BrokenRunError: it has had its attempts.
    """
    vain = claim.in_a_row - 1
    if vain >= options.attempts:
        type_ = "AgentLoopWorkerLost"
        problem = f"{vain} drivers in a row were lost before they committed anything"
        raise BrokenRunError(type_, describe(type_, problem=problem))


def _backend(config: Config, resources: Resources) -> Backend:
    """The backend of a run, which another loop may have had when it started."""
    try:
        return resources.choose_backend(config)
    except RequestError as error:
        type_ = "AgentLoopInvalidEffectiveConfig"
        problem = f"$.data_plane_id: {error.detail}"
        raise BrokenRunError(
            type_, f"effective_config cannot be run by this worker: {problem}"
        ) from None


def _end_what_runs(drive: Drive) -> None:
    """Have the backend end what a lost attempt left running, for nobody wants it."""
    end = getattr(drive.session, "end", None)
    if drive.remembered is None or end is None:
        return
    try:
        end(drive.remembered)
    except Exception:
        log.exception("ending what run %s left at its provider failed", drive.row.id)


def _reason_to_stop(claim: Claim) -> CancelRequested | DeadlinePassed | None:
    """Why a run must begin nothing more, if it must not."""
    if claim.run.cancel_requested:
        return CancelRequested()
    left = claim.seconds_left
    return DeadlinePassed() if left is not None and left <= 0 else None


def _first_state(payload: Payload) -> LoopState:
    log = Log(opening(payload))
    return LoopState(Plan(max_iterations=1), None, Discovering(), 0, log, Usage())


def _decode(type_: str, read: Callable[[RunRow], Any], row: RunRow) -> Any:
    try:
        return read(row)
    except WireError as error:
        raise BrokenRunError(type_, describe(type_, problem=error)) from None


def _invalid_config(problem: str) -> BrokenRunError:
    type_ = "AgentLoopInvalidEffectiveConfig"
    return BrokenRunError(type_, describe(type_, problem=problem))


def _unusable(problem: str) -> BrokenRunError:
    """A config that is whole, but not for a host like this one."""
    message = f"the effective_config cannot be used here: {problem}"
    return BrokenRunError("AgentLoopInvalidEffectiveConfig", message)


def _conversation(row: RunRow, store: Store) -> tuple[str | None, tuple[Message, ...]]:
    """The system prompt and the messages before the run."""
    reader = Reader(row.company_id)
    found = store.get_conversation(reader, row.conversation_id)
    page = store.messages(reader, row.conversation_id, until=row.base_version)
    if found is None or page is None:
        type_ = "AgentLoopConversationNotFound"
        raise BrokenRunError(type_, describe(type_, id=row.conversation_id))
    try:
        return present.body_of(found).system_prompt, _history(page)
    except (WireError, RequestError) as error:
        problem = (
            error.problem if isinstance(error, present.StoredFieldError) else error
        )
        raise _invalid_config(str(problem)) from None


def _history(page: MessagePage) -> tuple[Message, ...]:
    return tuple(message_from(row.body) for row in page.rows)


def _open_servers(drive: Drive, resources: Resources, opened: list[ToolServer]) -> None:
    """Resolve every server of the config: the host's by alias, others by URL."""
    registered: dict[str, tuple[Offer, ...]] = {}
    for server in drive.config.mcp_servers or ():
        if server.url is not None:
            found = resources.directory.open(server, drive.row.scope)
            opened.append(found)
        elif server.alias in resources.servers:
            found = resources.servers[server.alias]
            registered[server.alias] = found.declared() or ()
        else:
            raise _unusable(f"no tools are registered under '{server.alias}'")
        drive.servers[server.alias] = found
    drive.catalogs = dict(declared_catalogs(drive.config, registered))
    for alias, found in drive.servers.items():
        if alias in registered and found.declared() is None:
            drive.catalogs[alias] = None


def _begin(drive: Drive, plan: Plan, payload: Payload, *, stopping: bool) -> None:
    message = opening(payload)
    if stopping or plan.servers:
        drive.state = start(plan, message, None)
        return
    toolbox = drive.equip(drive.catalogs)
    drive.state = start(plan, message, toolbox.routing)


def _new_plan(drive: Drive, choice: ToolChoice | None, options: Options) -> Plan:
    """The plan of a run that has not stored one, by the host's options of today."""
    to_discover = tuple(a for a, offers in drive.catalogs.items() if offers is None)
    return options.plan(
        max_iterations=drive.config.max_iterations,
        tool_choice=on_the_wire(choice),
        servers=to_discover,
    )


def _resume(drive: Drive, claim: Claim, options: Options, *, stopping: bool) -> None:
    """Pick up where the last commit left off."""
    try:
        log = [message_from(text) for text in claim.messages]
        header = claim.header or ""
        plan = _stored_plan(drive, claim, options)
        routing = drive.toolbox.routing if drive.toolbox else None
        drive.state = state_from(header, plan, routing, log, dict(claim.results))
        idle = is_idle(header)
        drive.remembered = remembered_in(header)
    except WireError as error:
        raise _invalid_config(f"checkpoint {error}") from None
    if idle:
        return
    drive.lost = _lost_attempt(drive.state, claim.run.id, drive.remembered)
    recovered = step(drive.state, Recovered())
    if stopping and _succeeds(recovered):
        return  # a reason to stop that is known wins over what recovery makes of it
    drive.state = recovered


def _succeeds(state: LoopState) -> bool:
    phase = state.phase
    return isinstance(phase, Finished) and not isinstance(phase.outcome, Failed)


def _stored_plan(drive: Drive, claim: Claim, options: Options) -> Plan:
    """The plan the run began with; until its tools are known there is none stored."""
    if claim.setup is None:
        choice = present.tool_choice_of(claim.run)
        return _new_plan(drive, choice, options)
    setup = setup_from(claim.setup)
    drive.equip(setup.catalogs)
    return setup.plan


def _lost_attempt(
    state: LoopState, run_id: str, remembered: str | None
) -> AttemptRow | None:
    """The record of the attempt whose worker is gone."""
    match state.phase:
        case Inferring(attempt):
            return lost_row(run_id, state.iterations, attempt, remembered)
        case _:
            return None
