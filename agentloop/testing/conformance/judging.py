"""How a check says what is wrong, and how checks are collected.

A check is a function of a `Subject`; its docstring is its claim in one sentence.
"""

from collections.abc import Callable
from typing import Any, Literal

from attrs import frozen

from agentloop.testing.conformance.subject import Subject

Level = Literal["contract", "restart", "races", "failures"]
LEVELS: tuple[Level, ...] = ("contract", "restart", "races", "failures")
Need = Literal["nothing", "clock", "place"]


class BrokenPromiseError(AssertionError):
    """A store did not do what the port promises; the message says what and where."""


@frozen
class Check:
    """One promise of the port, and the function that puts it to the test.

    Attributes:
        name: what it is called in reports.
        claim: the promise, in one sentence.
        level: what kind of promise it is.
        needs: what it cannot do without: a clock that can be moved, or a factory
            that other processes can import.
        body: raises when the promise is broken.
    """

    name: str
    claim: str
    level: Level
    needs: Need
    body: Callable[[Subject], None]


ALL: list[Check] = []
"""Every check in the order it is run; filled when their rooms are imported."""


def promise(
    level: Level = "contract", needs: Need = "nothing"
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a check of a function; its docstring is the claim."""

    def add(body: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = body.__name__.replace("_", " ")
        ALL.append(Check(name, (body.__doc__ or "").strip(), level, needs, body))
        return body

    return add


def demand(held: object, reason: str) -> None:
    """Fail with a reason unless something holds.

    Raises:
        BrokenPromiseError: it does not.
    """
    if not held:
        raise BrokenPromiseError(reason)


def same(found: object, wanted: object, what: str) -> None:
    """Fail unless two values are equal, showing both in short."""
    if found != wanted:
        raise BrokenPromiseError(
            f"{what}: wanted {_short(wanted)}, got {_short(found)}"
        )


def raises(
    call: Callable[[], Any], kind: type[Exception], what: str, keep: str = "is refused"
) -> None:
    """Fail unless a call raises this kind of error."""
    try:
        answer = call()
    except kind:
        return
    except Exception as error:
        raise BrokenPromiseError(
            f"{what} {keep} with {kind.__name__}, but raised {error!r}"
        ) from error
    raise BrokenPromiseError(
        f"{what} {keep} with {kind.__name__}, but answered {_short(answer)}"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]} ... ({len(text)} characters)"
