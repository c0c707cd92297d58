"""What a host may choose, gathered in one value."""

from collections.abc import Callable, Iterable
from typing import Literal

from attrs import field, frozen

from agentloop.core.catalog import DOCS_BASE
from agentloop.core.phases import Plan
from agentloop.runtime import checks
from agentloop.runtime.system import jittered
from agentloop.wire import Limits

_MOST_ATTEMPTS = 10_000
"""As many as a run may have iterations; stores count them in two bytes."""
_AT_LEAST_ONE = (
    "parallel_tools",
    "tool_slots",
    "in_flight",
    "max_result_bytes",
)
_ONE_OF = {
    "visibility": ("company", "user"),
    "on_unresolved_call": ("fail", "tell_model"),
    "on_invalid_arguments": ("fail", "tell_model"),
}
_POSITIVE = ("discovery_timeout", "lease")
_POSITIVE_OR_NONE = ("run_timeout", "attempt_timeout", "tool_timeout")


def _delays(given: object) -> tuple[float, ...]:
    if isinstance(given, Iterable) and not isinstance(given, str):
        return tuple(given)
    raise TypeError(
        f"delays must be a row of seconds such as (1.0, 2.0), not {checks.given(given)}"
    )


@frozen(kw_only=True)
class Options:
    """The host's choices. Spans are in seconds, sizes in bytes.

    Attributes:
        run_timeout: how long a run may take from its first claim; None: for ever.
        attempt_timeout: how long one inference may take.
        tool_timeout: how long one tool call may take, unless the tool says less.
        discovery_timeout: how long a server may take to list its tools.
        attempts: how often one effect is tried.
        delays: the schedule of waits between attempts.
        pause: turns a scheduled delay and a provider's hint into seconds to wait.
        parallel_tools: how many tool calls of one turn run side by side.
        tool_slots: how many tool calls run at once in the whole loop.
        in_flight: how many inferences the async face has under way at once.
        lease: how long a run stays with a worker that gives no sign of life.
        max_result_bytes: a tool result above this becomes an error result.
        visibility: whether a company shares its rows by id, or each user has own.
        on_unresolved_call: what a name that resolves to nothing leads to.
        on_invalid_arguments: what refused arguments lead to.
        docs_base: where the documentation of errors lives; ends with a slash.
        limits: caps on JSON that a caller sends.

    Raises:
        TypeError: something of another kind altogether.
        ValueError: a count below one, a span that is not positive, an unknown word.
    """

    run_timeout: float | None = None
    attempt_timeout: float | None = 600.0
    tool_timeout: float | None = 300.0
    discovery_timeout: float = 30.0
    attempts: int = 5
    delays: tuple[float, ...] = field(default=(1.0, 2.0, 4.0, 8.0), converter=_delays)
    pause: Callable[[float, float], float] = jittered
    parallel_tools: int = 8
    tool_slots: int = 32
    in_flight: int = 64
    lease: float = 30.0
    max_result_bytes: int = 1024 * 1024
    visibility: Literal["company", "user"] = "company"
    on_unresolved_call: Literal["fail", "tell_model"] = "fail"
    on_invalid_arguments: Literal["fail", "tell_model"] = "fail"
    docs_base: str = DOCS_BASE
    limits: Limits = field(factory=Limits)

    def __attrs_post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            checks.whole(name, getattr(self, name), 1)
        checks.whole("attempts", self.attempts, 1, _MOST_ATTEMPTS)
        for name, allowed in _ONE_OF.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(allowed)
                raise ValueError(
                    f"{name} must be one of {known}, not {getattr(self, name)!r}"
                )
        for name in (*_POSITIVE, *_POSITIVE_OR_NONE):
            span = getattr(self, name)
            if span is not None or name in _POSITIVE:
                checks.span(name, span)
        checks.check_calls("pause=", self.pause)
        for delay in self.delays:
            if delay != 0:
                checks.span("each of delays", delay)
        self._check_rest()

    def _check_rest(self) -> None:
        if not str(self.docs_base).endswith("/"):
            raise ValueError(
                "docs_base must be a URL that ends with a slash, not "
                f"{self.docs_base!r}"
            )
        limits: object = self.limits
        if not isinstance(limits, Limits):
            raise TypeError(
                f"limits must be an agentloop.wire.Limits, not {checks.given(limits)}"
            )

    def plan(self, **of_the_run: object) -> Plan:
        """A plan with the host's choices and what the run brings."""
        return Plan(
            parallel=self.parallel_tools,
            attempts=self.attempts,
            delays=self.delays,
            on_unresolved_call=self.on_unresolved_call,
            on_invalid_arguments=self.on_invalid_arguments,
            **of_the_run,  # type: ignore[arg-type] # max_iterations, tool_choice, servers
        )
