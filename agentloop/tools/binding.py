"""One tool and one call of it: arguments in, the function run, an answer out.

Who waits, where, and for how long is `functions`' business: a `Bound` only says how
to run and what to answer when the time is up.
"""

import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Final, cast

from attrs import frozen

from agentloop.core.catalog import Failure
from agentloop.core.config import ToolSpec, is_wire_name
from agentloop.core.content import JsonObject
from agentloop.core.routing import Offer
from agentloop.core.values import value
from agentloop.ports import ToolAnswer, ToolCall, require
from agentloop.ports.tools import Abandoned
from agentloop.schema import Validator, compile_schema
from agentloop.tools.decorator import Tool, ToolOptions
from agentloop.tools.results import Renderer, failed, raised
from agentloop.tools.signatures import (
    Function,
    Signature,
    ToolContext,
    read_docstring,
    read_signature,
)
from agentloop.wire import clean, is_clean

MAX_NAME: Final = 55
"""With the longest alias and the dash this is the 64 that every provider takes."""


@frozen(eq=False)
class Prepared:
    """A tool with everything that is worked out once."""

    offer: Offer
    options: ToolOptions
    function: Function
    signature: Signature
    renderer: Renderer
    is_async: bool

    @property
    def name(self) -> str:
        """The tool's name under its alias."""
        return self.offer.spec.name

    @functools.cached_property
    def validator(self) -> Validator:
        """Compiled at the first call and kept."""
        return compile_schema(self.offer.spec.input_schema)

    def bind(self, call: ToolCall) -> "Bound":
        """The call with its arguments checked and converted.

        Raises:
            WireError: the arguments do not fit; the path says where.
        """
        arguments = _own(call.arguments)
        self.validator.check(arguments)
        keywords = self.signature.convert(arguments)
        if self.signature.context is not None:
            keywords[self.signature.context] = ToolContext(
                call.run_id, call.scope, call.effect_key, call.tool_use_id
            )
        own, given = self.options.timeout, call.timeout
        is_own = own is not None and (given is None or own <= given)
        limit = own if is_own else given
        return Bound(self, keywords, limit, is_own, call.abandoned)


@value(eq=False)
class Bound:
    """One call, ready to run. `limit` is in seconds; `is_own` says whose it is.

    `abandoned` tells a thread that waits whether it need not any more.
    """

    tool: Prepared
    keywords: dict[str, object]
    limit: float | None
    is_own: bool
    abandoned: Abandoned | None = None

    def run(self) -> ToolAnswer:
        """Run the function on this thread."""
        try:
            value = self.tool.function(**self.keywords)
        except BaseException as error:
            if _ends_process(error):
                raise
            return raised(error)
        return self._render(value)

    async def arun(self) -> ToolAnswer:
        """Await the function on the running loop."""
        from asyncio import CancelledError, current_task

        try:
            function = cast("Callable[..., Awaitable[object]]", self.tool.function)
            value = await function(**self.keywords)
        except CancelledError as error:
            task = current_task()
            if task is None or task.cancelling():
                raise
            return raised(error)  # the function's own: nobody cancelled this task
        except BaseException as error:
            if _ends_process(error):
                raise
            return raised(error)
        return self._render(value)

    def _render(self, value: object) -> ToolAnswer:
        if inspect.iscoroutine(value):
            value.close()
            return failed(
                f"'{self.tool.name}' gave a coroutine; declare it with async def"
            )
        return self.tool.renderer.returned(value)

    def refused(self, error: Exception) -> ToolAnswer:
        """The answer of a function that the threads did not take or finish."""
        return failed(f"the tool '{self.tool.name}' {error}")

    def late(self) -> ToolAnswer | Failure:
        """The answer of a function that did not end in time."""
        return self._over_time("did not answer within", "whether it acted is unknown")

    def unstarted(self) -> ToolAnswer | Failure:
        """The answer of a function for which there was no thread in time."""
        return self._over_time("found no free thread within", "it was not started")

    def given_up(self, *, started: bool) -> Failure:
        """What is returned to nobody: the function may still be at work."""
        state = "whether it acted is unknown" if started else "it was not started"
        message = f"nobody waits for the tool '{self.tool.name}' any more; {state}"
        return Failure(kind="mcp_timeout", message=message)

    def _over_time(self, what: str, state: str) -> ToolAnswer | Failure:
        message = f"the tool '{self.tool.name}' {what} {self.limit:g} s; {state}"
        if self.is_own:
            return failed(message)
        return Failure(kind="mcp_timeout", message=message)


def _own(arguments: JsonObject) -> JsonObject:
    """A clean copy of arguments, because the function may change it.

    A run's are clean already. Others' are looked at all the same: a lone surrogate
    ends the process in the validator, whose strings are Rust's.
    """
    return _copier()(arguments) if is_clean(arguments) else clean(arguments)[0]


@functools.cache
def _copier() -> Callable[[JsonObject], JsonObject]:
    copier: Callable[[JsonObject], JsonObject]
    copier = require("msgspec", "tools").to_builtins
    return copier


def _ends_process(error: BaseException) -> bool:
    """Whether an exception is more than the function's own failure.

    Signal handlers run on the main thread only; elsewhere a `SystemExit` or
    `KeyboardInterrupt` was raised by the function itself.
    """
    if isinstance(error, Exception):
        return False
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    return True


def prepare(given: Tool[..., object] | Function, max_bytes: int) -> Prepared:
    """Work out what a tool offers.

    Raises:
        MissingExtraError: the extra `tools` is not installed.
        TypeError: a signature or a hint that cannot be a tool's.
        ValueError: a name that providers refuse.
    """
    found = given if isinstance(given, Tool) else Tool(given, ToolOptions())
    options, function = found.options, found.function
    name = options.name or function.__name__
    if not is_wire_name(name) or len(name) > MAX_NAME or name.endswith("-"):
        raise ValueError(
            f"the tool name '{name}' must be 1 to {MAX_NAME} of a-z, A-Z, 0-9, _ and "
            "-, and not end with a dash; give another with @tool(name=...)"
        )
    signature = read_signature(function)
    spec = ToolSpec(
        name=name,
        description=options.description
        or read_docstring(inspect.getdoc(function) or "")[0],
        input_schema=signature.schema,
    )
    return Prepared(
        offer=Offer(spec, options.policy),
        options=options,
        function=function,
        signature=signature,
        renderer=Renderer(name, options.max_bytes or max_bytes),
        is_async=inspect.iscoroutinefunction(function),
    )
