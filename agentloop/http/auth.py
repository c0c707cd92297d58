"""Who calls: from a bearer token to a scope and what it may do."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import frozen

from agentloop.core.catalog import RequestError
from agentloop.core.run import Scope

Verb: TypeAlias = Literal["read", "write"]
VERBS: frozenset[Verb] = frozenset({"read", "write"})


@frozen
class Principal:
    """A caller: whose rows, and the verbs on the `agent_conversations` permission."""

    scope: Scope
    verbs: frozenset[Verb] = VERBS


Found: TypeAlias = Principal | Scope | None
Authenticate: TypeAlias = Callable[[str], Found | Awaitable[Found]]
"""From a bearer token to its caller, None when it is not valid."""

_CARRIED = r"[A-Za-z0-9._~+/-]+=*"
_BEARER = re.compile(rf"bearer +({_CARRIED}) *", re.IGNORECASE)


def is_token(text: str) -> bool:
    """Whether a text can be sent as a bearer token (RFC 6750, "b64token")."""
    return re.fullmatch(_CARRIED, text) is not None


def bearer_token(values: Sequence[str]) -> str:
    """The token of a request's `Authorization` headers.

    Raises:
        RequestError: `unauthenticated`, unless there is exactly one well-formed one.
    """
    found = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        raise RequestError("unauthenticated")
    return found[1]


def admit(found: Found, verb: Verb) -> Scope:
    """The scope of an authenticated caller who may do `verb`.

    Raises:
        RequestError: `unauthenticated`, `forbidden`.
    """
    if found is None:
        raise RequestError("unauthenticated")
    if isinstance(found, Scope):
        return found
    if verb not in found.verbs:
        raise RequestError("forbidden", verb=verb)
    return found.scope


def fixed_tokens(tokens: Mapping[str, Principal | Scope]) -> Authenticate:
    """An `authenticate` over a fixed table, for tools and tests.

    Keeps digests only: nothing prints a token, and a look-up tells no timing.

    Raises:
        ValueError: a token that no request can carry; the text does not repeat it.
    """
    if not all(map(is_token, tokens)):
        raise ValueError(
            "a token holds what no bearer token may: only letters, digits and -._~+/ "
            "are sent, with = at the end"
        )
    callers = {_digest(token): caller for token, caller in tokens.items()}

    async def authenticate(token: str) -> Found:
        return callers.get(_digest(token))

    return authenticate


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
