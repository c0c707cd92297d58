"""What must hold on an engine whose workers and server die.

Each check is a function of a stage; its docstring is its claim. What a run leaves
must be what it would have left, but for an attempt that was lost and for the outcome
of a call that is truly unknown; and no call is made twice that may not be repeated.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeAlias
from uuid import UUID, uuid5

from agentloop.core.catalog import RequestError
from agentloop.core.content import ToolResult
from agentloop.core.run import Run
from agentloop.testing.engines.flows import CANARY
from agentloop.testing.engines.left import SCOPE
from agentloop.testing.engines.stage import Stage, reference
from agentloop.testing.engines.waiting import until

Check: TypeAlias = Callable[[Stage], None]
CHECKS: dict[str, Check] = {}
"""Every check by its name."""
SERVER_CHECKS: dict[str, Check] = {}
"""Those that kill the engine's server, for stages that have one to kill."""

DEATHS: dict[str, tuple[str, int]] = {
    "once it has the run": ("after claim", 1),
    "once the first state is stored": ("after checkpoint", 1),
    "before the first answer to the engine": ("after release", 1),
    "before an inference": ("before model", 1),
    "after an inference": ("after model", 1),
    "before the inference is answered": ("after release", 2),
    "once the calls are announced": ("before tool", 1),
    "before the calls are answered": ("after release", 3),
    "before finalize": ("before finalize", 1),
    "after finalize": ("after finalize", 1),
}
"""Where a worker dies, and at the how-manieth pass of that place."""


class BrokenPromiseError(AssertionError):
    """The engine did not do what the recipe promises; the message says what."""


def _check(body: Check) -> Check:
    CHECKS[body.__name__.replace("_", " ")] = body
    return body


def _server_check(body: Check) -> Check:
    SERVER_CHECKS[body.__name__.replace("_", " ")] = body
    return body


def demand(held: object, what: str) -> None:
    """Fail unless something holds.

    Raises:
        BrokenPromiseError: it does not.
    """
    if not held:
        raise BrokenPromiseError(what)


def same(found: object, wanted: object, what: str) -> None:
    """Fail unless two values are equal.

    Raises:
        BrokenPromiseError: they are not; shows both.
    """
    demand(found == wanted, f"{what}: wanted {wanted!r}, got {found!r}")


# ---------------------------------------------------------------- parity, one death


def parity(stage: Stage, flow: str) -> None:
    """A flow leaves the same run and messages as without an engine.

    Raises:
        BrokenPromiseError: it leaves something else.
    """
    same(stage.played(flow), reference(flow), flow)


def death(stage: Stage, where: str) -> None:
    """A worker that dies at one of the `DEATHS` leaves no trace but a lost attempt.

    Raises:
        BrokenPromiseError: the run ended otherwise, or something ran twice.
        AssertionError: no worker came by that place.
    """
    stage.die(*DEATHS[where])
    run = stage.ended(stage.start("one look"))
    # The end can be seen a moment before its worker comes to what is after it.
    until(lambda: not stage.fuse.armed, f"a worker comes by {where}", 10.0)
    found, calm = stage.left(run), reference("one look")
    same(found.runs, calm.runs, "the run")
    same(found.messages, calm.messages, "the messages")
    same(len(stage.executions(run)), 1, "executions of the tool")


# ---------------------------------------------------------------- effects


@_check
def a_death_before_a_call_leaves_it_unmade(stage: Stage) -> None:
    """The call is not made by anybody, and the model is told that nobody knows."""
    stage.die("before tool")
    run = stage.ended(stage.start("one payment"))
    same(run.status, "completed", "the status")
    same(stage.executions(run), (), "the executions")
    same(stage.unknown(run), 1, "calls of unknown outcome")


@_check
def a_death_after_a_call_does_not_repeat_it(stage: Stage) -> None:
    """The call was made once, and the model is told that nobody knows."""
    stage.die("after tool")
    run = stage.ended(stage.start("one payment"))
    same(run.status, "completed", "the status")
    same(len(stage.executions(run)), 1, "the executions")
    same(stage.unknown(run), 1, "calls of unknown outcome")


@_check
def a_call_that_may_be_repeated_is_made_again_under_its_key(stage: Stage) -> None:
    """At least once, with one effect key, so that the tool can tell."""
    stage.die("after tool")
    run = stage.ended(stage.start("one look"))
    made = stage.executions(run)
    same(len(made), 2, "the executions")
    same(len({each.effect_key for each in made}), 1, "the effect keys")
    same(stage.left(run).messages, reference("one look").messages, "the messages")


@_check
def answers_land_in_the_order_of_their_calls(stage: Stage) -> None:
    """However long each of them took: here the first call is the last to end."""
    stage.staff()
    run = stage.ended(stage.start("parallel tools"))
    same([each.n for each in stage.executions(run)], [3, 2, 1], "what ended when")
    found = stage.left(run).messages
    results = [b for m in found for b in m.content if isinstance(b, ToolResult)]
    same([each.tool_use_id[-1] for each in results], ["1", "2", "3"], "the results")


# ---------------------------------------------------------------- workers


@_check
def a_run_that_waits_outlives_its_worker(stage: Stage) -> None:
    """The wait is the engine's: another worker goes on when it is over."""
    stage.staff()
    run = stage.start("waits")
    until(lambda: stage.tried(run) == 1, f"run {run.id} is throttled")
    for pid in stage.crew.alive:
        stage.crew.kill(pid)
    stage.staff()
    same(stage.ended(run).status, "completed", "the status")
    same(stage.left(run), reference("waits"), "what is left")


@_check
def a_paused_conversation_goes_on_with_another_worker(stage: Stage) -> None:
    """A resume is a new run, and nobody needs to remember the first one."""
    stage.staff(1)
    first = stage.ended(stage.start("client tools"))
    same(first.status, "requires_action", "the first status")
    for pid in stage.crew.alive:
        stage.crew.dismiss(pid)
    stage.staff(1)
    outputs = {
        call.tool_use_id: f"yes to {call.name}" for call in first.pending_tool_calls
    }
    second = stage.loop.resume(first, outputs, scope=SCOPE)
    same(stage.left(first, second), reference("client tools"), "what is left")


@_check
def two_workers_share_the_runs(stage: Stage) -> None:
    """All of them end as they should, and no call is made twice."""
    stage.staff(2)
    runs = [stage.start("rows") for _ in range(12)]
    _all_as_expected(stage, runs, unknown=False)


@_check
def workers_that_keep_dying_lose_nothing(stage: Stage) -> None:
    """Whoever is there goes on; a call is made once or told to be unknown."""
    stage.staff()
    runs = [stage.start("rows") for _ in range(8)]
    for kills in range(1, 5):
        until(partial(_has_made, stage, runs, 4 * kills), "the runs go on")
        stage.crew.kill(stage.crew.alive[0])
        stage.staff()
    _all_as_expected(stage, runs, unknown=True)


@_check
def a_worker_that_hangs_is_replaced_and_does_no_harm(stage: Stage) -> None:
    """When it goes on after all, its run is over, and stays as it is."""
    stage.hang("after tool")
    try:
        run = stage.ended(stage.start("one payment"))
    finally:
        stage.wake()
    left = stage.left(run)
    same(run.status, "completed", "the status")
    same(stage.unknown(run), 1, "calls of unknown outcome")
    _all_as_expected(stage, [stage.start("rows") for _ in range(6)], unknown=False)
    same(stage.left(run), left, "what is left")
    same(len(stage.executions(run)), 1, "the executions")


@_check
def a_lease_that_is_lost_ends_no_run(stage: Stage) -> None:
    """A round that can commit nothing any more is made again, like one that is busy."""
    stage.hang("after model", workers=1)
    try:
        run = stage.start("one look")
        until(lambda: not stage.fuse.armed, "the worker stands still")
        stage.take_from_all(run)
    finally:
        stage.wake()
    same(stage.ended(run).status, "completed", "the status")
    same(stage.left(run).messages, reference("one look").messages, "the messages")


def _has_made(stage: Stage, runs: list[Run], calls: int) -> bool:
    """Whether these runs have made so many calls together."""
    ids = {run.id for run in runs}
    return sum(each.run_id in ids for each in stage.ledger.entries()) >= calls


def _all_as_expected(stage: Stage, runs: list[Run], *, unknown: bool) -> None:
    """Every run of rows ends as one does, and makes each call at most once."""
    calm = reference("rows")
    for run in runs:
        ended = stage.ended(run)
        found = stage.left(ended)
        same(found.runs, calm.runs, f"run {run.id}")
        same(len(found.messages), len(calm.messages), "the number of messages")
        times = Counter(each.effect_key for each in stage.executions(run))
        same(set(times.values()) - {1}, set(), "executions of one call")
        if not unknown:
            same(found.messages, calm.messages, "the messages")
        lacking = len(calm.messages) // 2 - 1 - len(times)
        demand(lacking <= stage.unknown(run), "a call was lost and nobody told")


# ---------------------------------------------------------------- callers


@_check
def a_cancel_that_comes_before_the_answer_ends_the_run(stage: Stage) -> None:
    """Whatever the model has said meanwhile, a cancel that was accepted wins."""
    run = _cancelled_at(stage, "after model")
    same(run.error and run.error.type, "AgentLoopCancelled", "the error")


@_check
def a_cancel_that_comes_after_the_end_changes_nothing(stage: Stage) -> None:
    """The end is stored, and only the engine has not heard of it yet."""
    run = _cancelled_at(stage, "after finalize")
    same(stage.left(run), reference("one look"), "what is left")


@_check
def a_cancel_that_races_the_end_leaves_one_of_both(stage: Stage) -> None:
    """A run is completed or cancelled as a whole, also when the end is just stored."""
    _one_of_both(stage, _cancelled_at(stage, "before finalize"))
    stage.staff()
    runs = [stage.start("one look") for _ in range(10)]
    for count, run in enumerate(runs):
        if count % 2:
            until(partial(stage.executions, run), "the run is near its end")
        stage.loop.cancel_run(run.id, scope=SCOPE)
    for run in runs:
        _one_of_both(stage, stage.ended(run))


def _cancelled_at(stage: Stage, place: str) -> Run:
    """A run that is cancelled while its worker stands still at a place."""
    stage.hang(place)
    try:
        run = stage.start("one look")
        if place == "after finalize":
            stage.ended(run)  # a worker may have come by with another run's end
        until(lambda: not stage.fuse.armed, f"a worker comes by {place}")
        stage.loop.cancel_run(run.id, scope=SCOPE)
    finally:
        stage.wake()
    return stage.ended(run)


def _one_of_both(stage: Stage, run: Run) -> None:
    """Completed with all of its messages, or cancelled with none or a legal part.

    That the messages are a legal history was seen when they were read.
    """
    found, whole = stage.left(run).messages, reference("one look").messages
    if run.status == "completed":
        same(found, whole, "the messages")
        return
    same(run.error and run.error.type, "AgentLoopCancelled", "the error")
    demand(run.final_text is None, f"cancelled run {run.id} has a final text")
    demand(whole[-1] not in found, f"cancelled run {run.id} has the last message")


@_check
def a_deleted_conversation_leaves_its_runs_at_rest(stage: Stage) -> None:
    """There is no such run any more: nobody comes back to it, and others go on."""
    stage.staff()
    runs = [stage.start("waits") for _ in range(8)]
    for run in runs:
        until(partial(_has_tried, stage, run), f"run {run.id} waits")
        stage.loop.delete_conversation(run.conversation_id, scope=SCOPE)
    _all_as_expected(stage, [stage.start("rows") for _ in range(4)], unknown=False)
    stage.staff(1)
    same(stage.ended(stage.start("waits")).status, "completed", "the status")
    stage.fuse.arm("before claim")
    stage.linger()
    demand(stage.fuse.armed, "somebody came back to a run that was removed")
    stage.fuse.disarm()


def _has_tried(stage: Stage, run: Run) -> bool:
    return stage.tried(run) == 1


@_check
def a_start_that_was_lost_is_healed_by_its_repeat(stage: Stage) -> None:
    """The caller hears of it, sends the same key again, and there is one run."""
    stage.staff()
    where = stage.converse("answer")
    key = str(uuid5(UUID(where), "key"))
    _lose_a_start(stage, where, key)
    run = stage.loop.start_run(where, "go", client_op_id=key, scope=SCOPE)
    again = stage.loop.start_run(where, "go", client_op_id=key, scope=SCOPE)
    same(again.id, run.id, "the run")
    same(stage.ended(run).status, "completed", "the status")
    same(stage.left(run), reference("answer"), "what is left")


@_check
def a_start_that_was_lost_is_found_when_nobody_repeats_it(stage: Stage) -> None:
    """The row is there and its caller is gone: a worker that comes looks for such."""
    stage.staff(0)
    where = stage.converse("answer")
    _lose_a_start(stage, where, str(uuid5(UUID(where), "key")))
    (run,) = stage.loop.list_runs(where, scope=SCOPE)
    stage.staff()
    same(stage.ended(run).status, "completed", "the status")
    same(stage.left(run), reference("answer"), "what is left")


def _lose_a_start(stage: Stage, where: str, key: str) -> None:
    """Start a run that the engine never hears of."""
    stage.line.cut = True
    try:
        stage.loop.start_run(where, "go", client_op_id=key, scope=SCOPE)
    except RequestError as error:
        same(error.slug, "workflow-start-failed", "the refusal")
    else:
        raise BrokenPromiseError("a start that was lost was reported as made")
    finally:
        stage.line.cut = False


# ---------------------------------------------------------------- what is kept


@_check
def nothing_that_was_said_is_kept_by_the_engine(stage: Stage) -> None:
    """Neither texts nor arguments nor results: they are in the store alone."""
    stage.staff()
    where = stage.converse("secret")
    run = stage.ended(stage.loop.start_run(where, CANARY, scope=SCOPE))
    same(run.final_text, CANARY, "the final text")
    kept = tuple(stage.place.kept())
    demand(any(run.id in text for text in kept), "the engine knows nothing of the run")
    demand(not any(CANARY in text for text in kept), "the engine keeps what was said")


# ---------------------------------------------------------------- the server


@_server_check
def a_server_that_dies_and_comes_back_loses_nothing(stage: Stage) -> None:
    """Workers stay, wait for it, and go on; no call is made twice."""
    if stage.server is None:
        raise BrokenPromiseError("give opened(server=...) to kill a server")
    stage.staff()
    runs = [stage.start("rows") for _ in range(8)]
    until(partial(_has_made, stage, runs, 4), "the runs go on")
    stage.server.kill()
    stage.server.start()
    _all_as_expected(stage, runs, unknown=True)
