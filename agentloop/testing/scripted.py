"""`ScriptedBackend`: a model that says what the test wrote, and nothing else.

Strict both ways: a request beyond the script fails loudly, and `assert_done`
tells which replies were never asked for. Each reply is a value made by one of the
verbs below; what the model was shown is kept in `seen`.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

from attrs import frozen

from agentloop.core.catalog import FAILURES, Failure, FailureKind
from agentloop.core.config import Config, ToolChoice, ToolSpec
from agentloop.core.content import Block, Message, Reasoning, Text, ToolUse
from agentloop.core.phases import Infer, ModelFailed, ModelReplied, StopReason
from agentloop.core.run import Usage
from agentloop.ports import (
    AttemptReport,
    DeltaSink,
    Inference,
    JobContext,
    SessionSetup,
)
from agentloop.wire import WireError, dump, to_json


class ScriptError(AssertionError):
    """The run and the script disagree."""


@frozen(kw_only=True)
class Seen:
    """What the model was shown with one request."""

    job_id: str
    iteration: int
    attempt: int
    tool_choice: ToolChoice
    config: Config
    system: str | None
    specs: tuple[ToolSpec, ...]
    messages: tuple[Message, ...]
    streamed: bool


@frozen(kw_only=True)
class Reply:
    """A scripted answer: content, or a failure."""

    content: tuple[Block, ...] = ()
    stop: StopReason = "end_turn"
    usage: Usage | None = None
    failure: Failure | None = None


Scripted: TypeAlias = Reply | Callable[[Seen], Reply]
"""A reply, or a function that computes one from what the model is shown."""


def _usage(tokens: tuple[int, int] | None) -> Usage | None:
    if tokens is None:
        return None
    return Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1])


def says(
    text: str,
    *,
    usage: tuple[int, int] | None = (10, 5),
    stop: StopReason = "end_turn",
) -> Reply:
    """The model answers with a text.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"says takes a text, not {text!r:.60}")
    return Reply(content=(Text(text),), stop=stop, usage=_usage(usage))


def calls(
    *uses: tuple[str, dict[str, Any]],
    text: str | None = None,
    ids: Iterable[str] | None = None,
    usage: tuple[int, int] | None = (10, 5),
    stop: StopReason = "tool_use",
) -> Reply:
    """The model calls tools: `calls(("rooms-free_slots", {"day": "Fri"}))`.

    Ids are `tooluse_1`, `tooluse_2` ... within the turn unless `ids` names them.

    Raises:
        TypeError: a call is no pair of a name and its arguments.
    """
    for use in uses:
        check_call(use)
    named = (
        list(ids) if ids is not None else [f"tooluse_{i + 1}" for i in range(len(uses))]
    )
    blocks: list[Block] = [Text(text)] if text is not None else []
    blocks += [
        ToolUse(id_, name, arguments)
        for id_, (name, arguments) in zip(named, uses, strict=True)
    ]
    return Reply(content=tuple(blocks), stop=stop, usage=_usage(usage))


def check_call(given: object) -> None:
    """That a scripted call is a pair of a name and its arguments.

    Raises:
        TypeError: it is not; the arguments may be anything, as a model's may.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(
            f"a call is a pair such as ('rooms-book', {{'day': 'Fri'}}), not "
            f"{given!r:.60}"
        )


def thinks(reasoning: str, signature: str, then: Reply) -> Reply:
    """The model reasons before a reply."""
    content = (Reasoning(text=reasoning, signature=signature), *then.content)
    return Reply(content=content, stop=then.stop, usage=then.usage)


def content(*blocks: Block, stop: StopReason = "end_turn") -> Reply:
    """The model answers with exactly these blocks."""
    return Reply(content=blocks, stop=stop, usage=_usage((10, 5)))


def fails(
    kind: FailureKind,
    message: str = "scripted failure",
    *,
    code: str | None = None,
    retry_after: float = 0.0,
    usage: tuple[int, int] | None = None,
) -> Reply:
    """The attempt fails."""
    failure = Failure(kind=kind, message=message, code=code, retry_after=retry_after)
    return Reply(failure=failure, usage=_usage(usage))


def throttles(retry_after: float = 0.0) -> Reply:
    """The provider throttles the attempt."""
    return fails("throttled", "slow down", code="Throttled", retry_after=retry_after)


def script_from(value: Any) -> list[Reply]:
    """Replies from JSON, so that a script can be a file.

    A list of objects, each with one of `says` (a text), `calls` (a list of
    `{"name", "arguments"}`) or `fails` (a failure kind), and optionally `text`,
    `stop`, `usage` (`[prompt, completion]`) and `code`.

    Raises:
        WireError: with the JSON path of what does not fit.
    """
    if not isinstance(value, list):
        raise WireError("$", "a script is a list of replies")
    return [_reply_from(f"$[{i}]", step) for i, step in enumerate(value)]


def _kind(given: Any) -> FailureKind:
    if not isinstance(given, str) or given not in FAILURES:
        raise TypeError(f"a failure is one of {', '.join(FAILURES)}, not {given!r:.60}")
    return cast("FailureKind", given)


def _reply_from(path: str, step: Any) -> Reply:
    verbs = [
        v for v in ("says", "calls", "fails") if isinstance(step, dict) and v in step
    ]
    if len(verbs) != 1:
        raise WireError(path, "needs exactly one of says, calls, fails")
    usage = tuple(step.get("usage", (10, 5)))
    try:
        match verbs[0]:
            case "says":
                return says(
                    step["says"], usage=usage, stop=step.get("stop", "end_turn")
                )
            case "calls":
                uses = [
                    (call["name"], call.get("arguments", {})) for call in step["calls"]
                ]
                stop = step.get("stop", "tool_use")
                return calls(*uses, text=step.get("text"), usage=usage, stop=stop)
            case _:
                kind, text = _kind(step["fails"]), step.get("text", "scripted")
                return fails(kind, text, code=step.get("code"))
    except (KeyError, TypeError, IndexError) as error:
        raise WireError(path, f"cannot be understood: {error!r}") from None


def _checked(step: Scripted) -> Scripted:
    """A step as it is; what is none would fail the run that reaches it.

    Raises:
        TypeError: it is no step.
    """
    if isinstance(step, Reply) or callable(step):
        return step
    raise TypeError(f"a script is of replies such as says('…'), not {step!r:.60}")


class ScriptedBackend:
    """A backend that replays a script, shared by all runs of a loop.

    Args:
        script: replies in the order in which they are asked for.
        forever: a reply for every request after the script; for load tests.

    Raises:
        TypeError: something that is neither a reply nor a function of what is shown.
    """

    name = "script"

    def __init__(self, *script: Scripted, forever: Scripted | None = None) -> None:
        self.seen: list[Seen] = []
        self._script = [_checked(step) for step in script]
        self._forever = None if forever is None else _checked(forever)
        self._lock = threading.Lock()
        self._surplus: list[Seen] = []

    def __repr__(self) -> str:
        more = "forever" if self._forever is not None else f"{len(self._script)} left"
        return f"<ScriptedBackend, {len(self.seen)} asked for, {more}>"

    def add(self, *script: Scripted) -> None:
        """Add replies to the end of the script."""
        checked = [_checked(step) for step in script]
        with self._lock:
            self._script.extend(checked)

    def check(self, config: Config, tool_choice: ToolChoice) -> None:
        """Accept every config."""

    def session(self, setup: SessionSetup) -> "ScriptedSession":
        """A session that reads from the common script."""
        return ScriptedSession(self, setup)

    def take(self, seen: Seen) -> Reply:
        """The next reply.

        Raises:
            ScriptError: the script is at its end.
        """
        with self._lock:
            self.seen.append(seen)
            if self._script:
                step: Scripted | None = self._script.pop(0)
            else:
                step = self._forever
            if step is None:
                self._surplus.append(seen)
        if step is None:
            raise ScriptError(f"the script has no reply number {len(self.seen)}")
        return step if isinstance(step, Reply) else step(seen)

    def assert_done(self) -> None:
        """Check that the script was used up, and nothing was asked beyond it.

        Raises:
            ScriptError: saying what was left or asked for too much.
        """
        if self._script:
            left = "".join(f"\n  {step!r:.200}" for step in self._script)
            raise ScriptError(
                f"{len(self._script)} replies were never asked for:{left}"
            )
        if self._surplus:
            raise ScriptError(f"{len(self._surplus)} requests came after the script")


class ScriptedSession:
    """The session of one run."""

    def __init__(self, backend: ScriptedBackend, setup: SessionSetup) -> None:
        self._backend = backend
        self._setup = setup

    def infer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """Answer from the script; text goes to `on_delta` word by word."""
        reply = self._backend.take(self._seen(command, job, on_delta is not None))
        digest = hashlib.sha256(self.request(command, job)).hexdigest()
        if on_delta is not None:
            for block in reply.content:
                if isinstance(block, Text):
                    _say(block.text, on_delta)
        if reply.failure is not None:
            failed = ModelFailed(
                iteration=command.iteration,
                attempt=command.attempt,
                failure=reply.failure,
                usage=reply.usage,
            )
            return Inference(failed, AttemptReport(request_sha256=digest))
        message = Message("assistant", reply.content)
        replied = ModelReplied(
            iteration=command.iteration,
            attempt=command.attempt,
            message=message,
            stop=reply.stop,
            usage=reply.usage,
        )
        report = AttemptReport(request_sha256=digest, response=_shown(message, reply))
        return Inference(replied, report)

    async def ainfer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """The same, on the event loop."""
        return self.infer(command, job, on_delta)

    def request(self, command: Infer, job: JobContext) -> bytes:
        """The neutral request as JSON."""
        seen = self._seen(command, job, streamed=False)
        value = {
            "model": seen.config.model,
            "system": seen.system,
            "tool_choice": to_json(seen.tool_choice),
            "tools": [spec.name for spec in seen.specs],
            "messages": [to_json(message) for message in seen.messages],
        }
        return dump(value).encode()

    def _seen(self, command: Infer, job: JobContext, streamed: bool) -> Seen:
        setup = self._setup
        return Seen(
            job_id=job.job_id,
            iteration=command.iteration,
            attempt=command.attempt,
            tool_choice=command.tool_choice,
            config=setup.config,
            system=setup.system,
            specs=setup.specs,
            messages=(*setup.history, *command.log),
            streamed=streamed,
        )


def _shown(message: Message, reply: Reply) -> str | None:
    """The reply as JSON text; None for a hostile one that has no such form."""
    try:
        return dump({"message": to_json(message), "stop": reply.stop})
    except WireError:
        return None


def _say(text: str, on_delta: DeltaSink) -> None:
    for piece in text.splitlines(keepends=True):
        on_delta(piece)
