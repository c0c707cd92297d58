"""The rules of the loop: one value and three functions.

`start` makes the first state of a run, `next_command` tells what is to be done,
`step` takes what happened. A driver is a loop over the last two; it commits a
state before it performs the command that follows from it.

The rules, and where they come from:

 1. A tool choice holds for iteration 1 only (contract section 4.3).
 2. Content decides, the stop reason is a hint; the exceptions are the reasons
    that void a turn: cut off, blocked, out of window, malformed (section 11).
 3. The calls of a turn that is void are never executed.
 4. A name that resolves to nothing fails the run before anything is called,
    unless the plan says to tell the model.
 5. Server calls run side by side, at most `plan.parallel` of them; their results
    stand in call order. The caller's calls of the turn pause the run afterwards.
 6. On the last iteration server calls alone are not executed and the run fails;
    with a caller's call among them the turn is carried out and the run pauses.
 7. A retry is the same effect with the next attempt number and a delay. Which
    failures are retried is said by the table in `agentloop.core.catalog`.
 8. A call that fails for good lets its started siblings end, starts no other,
    and then fails the run.
 9. A finished run stays as it is. Late, foreign and repeated answers change
    nothing: `step` returns the very state it was given.
10. Whatever ends a run, every call in its log is answered, so that the history
    is legal; a run that fails before the model ever spoke leaves nothing.
11. Usage counts each attempt once, an iteration is counted when it begins.

This module must not hold I/O, clocks, randomness or ids. `jitter` belongs to
whoever sleeps, parsing to whoever receives bytes.
"""

from types import NoneType
from typing import assert_never

from attrs import evolve

from agentloop.core.catalog import Failure, describe
from agentloop.core.config import AnyTool, Auto, SpecificTool
from agentloop.core.content import (
    Message,
    Text,
    ToolResult,
    ToolUse,
    texts,
    tool_results,
    tool_uses,
    without_blanks,
)
from agentloop.core.history import OUTCOME_UNKNOWN, close, error_result
from agentloop.core.phases import (
    Answer,
    Call,
    CallingTools,
    CallTools,
    CancelRequested,
    Command,
    Completed,
    DeadlinePassed,
    Discover,
    Discovered,
    Discovering,
    DiscoveryFailed,
    Event,
    Failed,
    Finish,
    Finished,
    Infer,
    Inferring,
    Log,
    LoopState,
    ModelFailed,
    ModelReplied,
    Outcome,
    Phase,
    Plan,
    Recovered,
    RequiresAction,
    ToolFailed,
    ToolReturned,
)
from agentloop.core.routing import Routing, ServerRoute, resolve
from agentloop.core.run import Usage

_VOID_STOPS = {
    "max_tokens": ("AgentLoopOutputTruncated", ""),
    "content_blocked": ("AgentLoopContentBlocked", "guard rail, filter or refusal"),
    "context_window": ("AgentLoopContextWindowExceeded", "it ended at the window"),
    "malformed": ("AgentLoopMalformedModelOutput", "the provider calls it malformed"),
}
"""Stop reasons that void a turn, with what the run then fails as (rule 2)."""

_AUTO = Auto()
_FIRST_TRY = Inferring()


def start(plan: Plan, opening: Message, routing: Routing | None) -> LoopState:
    """The first state of a run: discovering, or inferring when routing is known."""
    state = LoopState(plan, routing, Discovering(), 0, Log(opening), Usage())
    return state if routing is None else _discovered(state, routing)


def next_command(state: LoopState) -> Command:
    """What is to be done now; the same command for the same state, always."""
    phase = state.phase
    if isinstance(phase, Inferring):
        return _infer(state, phase)
    if isinstance(phase, CallingTools):
        return CallTools(_window(state.plan, phase))
    if isinstance(phase, Finished):
        return Finish(phase.outcome, _keeps(state.log, phase.outcome))
    if isinstance(phase, Discovering):
        servers = state.plan.servers
        return Discover(servers, phase.attempt, phase.delay, phase.at_least)
    assert_never(phase)


def _infer(state: LoopState, phase: Inferring) -> Infer:
    """The inference that is due; a tool choice is for the first one (rule 1)."""
    number = state.iterations
    choice = state.plan.tool_choice if number == 1 else _AUTO
    return Infer(number, phase.attempt, phase.delay, phase.at_least, choice, state.log)


def step(state: LoopState, event: Event) -> LoopState:
    """The state after an event; the same state when the event is not due."""
    phase = state.phase
    if isinstance(phase, Finished):
        return state
    # The two of every turn first: a pattern takes twice the time to match.
    if isinstance(event, ModelReplied):
        return _on_model(state, event)
    if isinstance(event, ToolReturned):
        return _on_tool(state, event)
    return _on_any(state, phase, event)


def _on_any(
    state: LoopState, phase: Discovering | Inferring | CallingTools, event: Event
) -> LoopState:
    match event:
        case ModelReplied() | ModelFailed():
            return _on_model(state, event)
        case ToolReturned() | ToolFailed():
            return _on_tool(state, event)
        case Discovered() | DiscoveryFailed():
            return _on_discovery(state, event)
        case Recovered():
            return _on_recovery(state, phase)
        case CancelRequested():
            return _fail(state, "AgentLoopCancelled", describe("AgentLoopCancelled"))
        case DeadlinePassed():
            type_ = "AgentLoopDeadlineExceeded"
            return _fail(state, type_, describe(type_))
        case _:
            assert_never(event)


def give_up(state: LoopState, type_: str, message: str) -> LoopState:
    """The state of a run that cannot be driven on; a finished one stays as it is."""
    return state if isinstance(state.phase, Finished) else _fail(state, type_, message)


# ---------------------------------------------------------------- discovery


def _on_discovery(state: LoopState, event: Discovered | DiscoveryFailed) -> LoopState:
    phase = state.phase
    if not isinstance(phase, Discovering):
        return state
    if isinstance(event, Discovered):
        return _discovered(evolve(state, routing=event.routing), event.routing)
    if event.attempt != phase.attempt:
        return state
    failure = event.failure
    if not failure.retried or phase.attempt >= state.plan.attempts:
        return _fail(state, failure.type, _told(failure))
    return evolve(state, phase=Discovering(*_next_try(state, phase.attempt, failure)))


def _discovered(state: LoopState, routing: Routing) -> LoopState:
    """A forced tool that vanished ends the run before anything is spent."""
    match state.plan.tool_choice:
        case SpecificTool(name) if name not in routing.routes:
            problem = f"tool_choice names '{name}', which no server offers any more"
        case AnyTool() if not routing.routes:
            problem = "tool_choice 'any' needs a tool, and no server offers one"
        case _:
            return _begin(state, state.log)
    type_ = "AgentLoopMcpDiscoveryFailed"
    return _fail(state, type_, describe(type_, problem=problem))


# ---------------------------------------------------------------- inference


def _begin(state: LoopState, log: Log) -> LoopState:
    """The next iteration; it counts from now on (rule 11)."""
    return LoopState(
        state.plan, state.routing, _FIRST_TRY, state.iterations + 1, log, state.usage
    )


def _on_model(state: LoopState, event: ModelReplied | ModelFailed) -> LoopState:
    phase = state.phase
    due = (
        isinstance(phase, Inferring)
        and event.iteration == state.iterations
        and event.attempt == phase.attempt
    )
    if not due:
        return state
    usage = state.usage.plus(event.usage)
    if isinstance(event, ModelReplied):
        return _read_turn(state, event, usage)
    spent = evolve(state, usage=usage)
    return _retry_inference(spent, event.attempt, event.failure)


def _retry_inference(state: LoopState, attempt: int, failure: Failure) -> LoopState:
    if not failure.retried or attempt >= state.plan.attempts:
        return _fail(state, failure.type, _told(failure))
    return evolve(state, phase=Inferring(*_next_try(state, attempt, failure)))


def _next_try(
    state: LoopState, attempt: int, failure: Failure
) -> tuple[int, float, float]:
    """Attempt number, delay and least delay of the next try (rule 7)."""
    delays = state.plan.delays
    delay = delays[min(attempt, len(delays)) - 1] if delays else 0.0
    return attempt + 1, delay, failure.retry_after


def _read_turn(state: LoopState, event: ModelReplied, usage: Usage) -> LoopState:
    """What the model said decides what follows (rules 2 to 6)."""
    said = event.message
    content = without_blanks(said.content)
    if said.role != "assistant" or content is not said.content:
        said = Message("assistant", content)
    uses = tool_uses(said)
    if problem := _unusable(said, uses):
        return _void(evolve(state, usage=usage), event.stop, problem)
    log = state.log.append(said)
    if uses and event.stop not in _VOID_STOPS:
        return _plan_calls(state, uses, log, usage)
    spoken = _with(state, state.phase, log, usage)
    if event.stop in _VOID_STOPS:
        return _void(spoken, event.stop, "")
    return _final(spoken, event)


def _with(state: LoopState, phase: Phase, log: Log, usage: Usage) -> LoopState:
    """The state with what a turn changes; `evolve` costs thrice as much."""
    return LoopState(state.plan, state.routing, phase, state.iterations, log, usage)


def _unusable(said: Message, uses: tuple[ToolUse, ...]) -> str | None:
    """Why a turn cannot be kept at all, because no history could hold it."""
    if len(uses) > 1 and (twice := _repeated([use.tool_use_id for use in uses])):
        return f"it uses the tool_use_id {twice!r} for two calls"
    if tool_results(said):
        return "it holds results, which only a caller or a tool may give"
    if not uses and not any(isinstance(block, Text) for block in said.content):
        return "it holds neither text nor a tool call"
    return None


def _repeated(ids: list[str]) -> str | None:
    if len(set(ids)) == len(ids):
        return None
    return next(id_ for id_ in ids if ids.count(id_) > 1)


def _void(state: LoopState, stop: str, problem: str) -> LoopState:
    type_, reason = _VOID_STOPS.get(stop, ("AgentLoopMalformedModelOutput", problem))
    return _fail(state, type_, describe(type_, problem=reason))


def _final(state: LoopState, event: ModelReplied) -> LoopState:
    if event.stop == "tool_use":
        type_ = "AgentLoopMalformedModelOutput"
        problem = "it stopped to use a tool and named none"
        return _fail(state, type_, describe(type_, problem=problem))
    answer = event.answer or Answer(next(texts(state.log[-1])))
    if isinstance(answer, Failure):
        return _fail(state, answer.type, _told(answer))
    return _finish(state, Completed(answer))


# ---------------------------------------------------------------- tools


def _plan_calls(
    state: LoopState, uses: tuple[ToolUse, ...], log: Log, usage: Usage
) -> LoopState:
    """The turn that these calls open, or the end they lead to before any is made."""
    routing = state.routing
    if routing is None:
        raise AssertionError("inference begins only when routing is known")
    phase = open_turn(state.iterations, uses, routing)
    if phase.told and state.plan.on_unresolved_call == "fail":
        found = [resolve(routing, use.name) for use in uses]
        lost = next(route for route in found if isinstance(route, Failure))
        spoken = _with(state, state.phase, log, usage)
        return _fail(spoken, lost.type, _told(lost))
    if not phase.asked and state.iterations >= state.plan.max_iterations:
        type_ = "AgentLoopMaxIterationsExceeded"
        spoken = _with(state, state.phase, log, usage)
        return _fail(spoken, type_, describe(type_, n=state.iterations))
    turn = _with(state, phase, log, usage)
    return turn if phase.calls else _settle(turn, phase)


def open_turn(
    iteration: int, uses: tuple[ToolUse, ...], routing: Routing
) -> CallingTools:
    """The phase a turn's calls begin with; also how a stored phase is rebuilt."""
    calls: list[Call] = []
    asked: list[ToolUse] = []
    told: list[ToolResult] = []
    for position, use in enumerate(uses):
        route = resolve(routing, use.name)
        if isinstance(route, ServerRoute):
            calls.append(Call(f"{iteration}.{position}", use, route))
        elif isinstance(route, Failure):
            told.append(error_result(use.tool_use_id, "{why}", route.message))
        else:
            asked.append(use)
    return CallingTools(tuple(calls), (None,) * len(calls), tuple(asked), tuple(told))


def _window(plan: Plan, phase: CallingTools) -> tuple[Call, ...]:
    """The calls that may be running: the first open ones, in call order."""
    calls, results = phase.calls, phase.results
    if len(calls) == 1:
        return calls
    last = len(calls) if phase.barred is None else phase.barred
    unanswered = [i for i in range(last) if results[i] is None]
    return tuple(calls[i] for i in unanswered[: plan.parallel])


def _on_tool(state: LoopState, event: ToolReturned | ToolFailed) -> LoopState:
    phase = state.phase
    if not isinstance(phase, CallingTools):
        return state
    index = _running(state.plan, phase, event.key)
    if index is None:
        return state
    call = phase.calls[index]
    if isinstance(event, ToolReturned):
        result = ToolResult(call.use.tool_use_id, event.content, event.is_error)
        return _settle(state, _answered(phase, index, result))
    if event.attempt != call.attempt:
        return state
    return _call_failed(state, phase, index, event.failure)


def _running(plan: Plan, phase: CallingTools, key: str) -> int | None:
    """The position of a call that may be running; no other can have an answer."""
    for call in _window(plan, phase):
        if call.key == key:
            return phase.calls.index(call)
    return None


def _answered(
    phase: CallingTools, index: int, result: ToolResult | Failure
) -> CallingTools:
    results = (*phase.results[:index], result, *phase.results[index + 1 :])
    return CallingTools(phase.calls, results, phase.asked, phase.told, phase.barred)


def _call_failed(
    state: LoopState, phase: CallingTools, index: int, failure: Failure
) -> LoopState:
    call = phase.calls[index]
    if failure.kind == "tool_validation" and (
        state.plan.on_invalid_arguments == "tell_model"
    ):
        told = error_result(call.use.tool_use_id, "{why}", failure.message)
        return _settle(state, _answered(phase, index, told))
    again = failure.retried and phase.barred is None
    if again and call.attempt < state.plan.attempts:
        later = _next_try(state, call.attempt, failure)
        return evolve(state, phase=_rescheduled(phase, index, *later))
    barred = phase.barred
    if barred is None:
        window = _window(state.plan, phase)
        barred = phase.calls.index(window[-1]) + 1
    return _settle(state, evolve(_answered(phase, index, failure), barred=barred))


def _rescheduled(
    phase: CallingTools, index: int, attempt: int, delay: float, at_least: float
) -> CallingTools:
    later = evolve(phase.calls[index], attempt=attempt, delay=delay, at_least=at_least)
    calls = (*phase.calls[:index], later, *phase.calls[index + 1 :])
    return evolve(phase, calls=calls)


def _settle(state: LoopState, phase: CallingTools) -> LoopState:
    """Stay while calls are open; otherwise close the turn and go on (rule 5)."""
    if NoneType in map(type, phase.results[: phase.barred]):
        return _with(state, phase, state.log, state.usage)
    for result in phase.results:
        if isinstance(result, Failure):
            after = _with(state, phase, state.log, state.usage)
            return _fail(after, result.type, _told(result))
    log = _with_results(state.log, phase)
    if phase.asked:
        ended = _with(state, phase, log, state.usage)
        return _finish(ended, RequiresAction(phase.asked))
    return _begin(state, log)


def _with_results(log: Log, phase: CallingTools) -> Log:
    """The log with the turn's results in call order, if we have any to give."""
    blocks = [found for found in phase.results if isinstance(found, ToolResult)]
    if phase.told:
        done, uses = _by_id(phase), tool_uses(log[-1])
        blocks = [done[use.tool_use_id] for use in uses if use.tool_use_id in done]
    return log.append(Message("tool", tuple(blocks))) if blocks else log


def _by_id(phase: CallingTools) -> dict[str, ToolResult]:
    results = (*phase.results, *phase.told)
    return {r.tool_use_id: r for r in results if isinstance(r, ToolResult)}


# ---------------------------------------------------------------- recovery


def _on_recovery(
    state: LoopState, phase: Discovering | Inferring | CallingTools
) -> LoopState:
    """The lost worker may have performed its command, wholly or in part."""
    lost = Failure(
        kind="worker_lost",
        message=describe("AgentLoopWorkerLost", problem="its attempts are spent"),
    )
    match phase:
        case Discovering(attempt):
            if attempt >= state.plan.attempts:
                return _fail(state, lost.type, lost.message)
            return evolve(state, phase=Discovering(attempt + 1))
        case Inferring(attempt):
            spent = evolve(state, usage=state.usage.plus(None))
            if attempt >= state.plan.attempts:
                return _fail(spent, lost.type, lost.message)
            return evolve(spent, phase=Inferring(attempt + 1))
        case CallingTools():
            return _settle(state, _recover_calls(state, phase))
        case _:
            assert_never(phase)


def _recover_calls(state: LoopState, phase: CallingTools) -> CallingTools:
    """Only calls of the window may have started; each follows its own policy."""
    window = _window(state.plan, phase)
    last = phase.calls.index(window[-1]) + 1
    for call in window:
        index = phase.calls.index(call)
        if call.route.in_doubt == "repeat" and call.attempt < state.plan.attempts:
            phase = _rescheduled(phase, index, call.attempt + 1, 0.0, 0.0)
        elif call.route.in_doubt == "tell":
            phase = _answered(phase, index, _outcome_unknown(call))
        else:
            problem = f"'{call.use.name}' was running, {_why_not_again(call)}"
            message = describe("AgentLoopWorkerLost", problem=problem)
            failure = Failure(kind="worker_lost", message=message)
            barred = phase.barred or last
            phase = evolve(_answered(phase, index, failure), barred=barred)
    return phase


def _why_not_again(call: Call) -> str:
    if call.route.in_doubt == "repeat":
        return "and its attempts are spent"
    return "and may not be repeated"


def _outcome_unknown(call: Call) -> ToolResult:
    why = "the worker that ran it was lost"
    return error_result(call.use.tool_use_id, OUTCOME_UNKNOWN, why)


# ---------------------------------------------------------------- the end


def _finish(state: LoopState, outcome: Outcome) -> LoopState:
    return _with(state, Finished(outcome), state.log, state.usage)


def _fail(state: LoopState, type_: str, message: str) -> LoopState:
    """End the run as failed, with every call in its log answered (rule 10)."""
    log = state.log
    if log[-1].role == "assistant" and (uses := tool_uses(log[-1])):
        log = log.append(_closing(state, uses, message))
    return _finish(evolve(state, log=log), Failed(type_, message))


def _closing(state: LoopState, uses: tuple[ToolUse, ...], why: str) -> Message:
    phase = state.phase
    if not isinstance(phase, CallingTools):
        return close(uses, {}, frozenset(), why)
    known = _by_id(phase)
    for call, result in zip(phase.calls, phase.results, strict=True):
        if isinstance(result, Failure):
            id_ = call.use.tool_use_id
            known[id_] = error_result(id_, "{why}", result.message)
    started = {call.use.tool_use_id for call in _window(state.plan, phase)}
    return close(uses, known, frozenset(started - known.keys()), why)


def _told(failure: Failure) -> str:
    """A failure's message, led by the provider's own code."""
    if failure.code is None or failure.code in failure.message:
        return failure.message
    return f"{failure.code}: {failure.message}"


def _keeps(log: Log, outcome: Outcome) -> bool:
    """Whether anything is stored: not when the model never spoke (rule 10)."""
    if isinstance(outcome, Failed):
        return any(message.role == "assistant" for message in log)
    return True
