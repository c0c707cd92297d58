"""Clock, ids, observer, and the error for an extra that is not installed."""

from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from agentloop.core.run import RunEvent


class Clock(Protocol):
    """Where the runtime and the shipped stores read the time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever rise, for measuring spans."""
        ...


class Ids(Protocol):
    """Where the ids of conversations, runs and requests come from."""

    def new(self) -> str:
        """A fresh uuid as text, never returned before."""
        ...


def derived_id(run_id: str, place: str) -> str:
    """The id of a thing at a place within a run: always the same uuid.

    It is a uuid of version 5 (RFC 9562, section 5.5), put together here because a
    run asks for several per iteration and the standard class costs thrice as much.
    """
    name = _NAMESPACE + f"{run_id}/{place}".encode()
    digest = _sha1()(name, usedforsecurity=False).hexdigest()
    return (
        f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}"
        f"-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"
    )


@cache
def _sha1() -> Any:
    """The hash; its module loads OpenSSL, which only a run has a use for."""
    return import_module("hashlib").sha1


_NAMESPACE = bytes.fromhex("6f0c6a0e5d0f5b529d0b2f6f0b1c9a31")
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The digit with the two bits that every uuid has, by what it was before."""


class Observer(Protocol):
    """Sees every event of every run as it happens.

    Text deltas are among them while somebody follows the run, because only then
    the provider is asked to stream.

    Called on the thread or task that drives the run, so it must be quick and must
    not raise; an exception it raises is swallowed and the run goes on.
    """

    def __call__(self, run_id: str, event: RunEvent, /) -> None:
        """Take one event."""
        ...


class MissingExtraError(ImportError):
    """A feature was used whose packages are not installed."""

    def __init__(self, module: str, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"{module} is not installed; run: pip install 'agentloop[{extra}]'"
        )


def require(module: str, extra: str) -> Any:
    """Import a package of an extra, late.

    Raises:
        MissingExtraError: it is not installed; the message says how to get it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingExtraError(module, extra) from None
