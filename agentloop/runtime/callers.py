"""Callers: what they hand over, checked, and the stored rows that they may see.

What is another's is as unknown as what nobody has. It knows no resource.
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from agentloop.core.catalog import RequestError
from agentloop.core.run import Scope
from agentloop.ports import ConversationRow, Reader, RunRow, Store
from agentloop.runtime import checks
from agentloop.wire import WireError, clean, is_uuid, load

_LARGEST_ID: Final = 2**63


@frozen
class Visible:
    """Looks rows up for a scope; with `own`, each user has rows of their own."""

    store: Store
    own: bool

    def reader(self, scope: Scope) -> Reader:
        """Whose rows the store is asked for."""
        scope = as_scope(scope)
        return Reader(scope.company_id, scope.user_id if self.own else None)

    def conversation(self, conversation_id: str, scope: Scope) -> ConversationRow:
        """The row of a conversation.

        Raises:
            RequestError: `conversation-not-found`.
        """
        check_id("conversation_id", conversation_id, "conversation-not-found")
        row = self.store.get_conversation(self.reader(scope), conversation_id)
        if row is None:
            raise RequestError("conversation-not-found")
        return row

    def run(self, run_id: str, scope: Scope) -> RunRow:
        """The row of a run.

        Raises:
            RequestError: `agent-run-not-found`.
        """
        check_id("run_id", run_id, "agent-run-not-found")
        row = self.store.get_run(self.reader(scope), run_id)
        if row is None:
            raise RequestError("agent-run-not-found")
        return row


def as_scope(scope: Scope | Mapping[str, Any]) -> Scope:
    """The scope of a call, also from a plain dict.

    Raises:
        TypeError: it is neither, or its ids are no integers.
        ValueError: an id is beyond what every store takes.
    """
    if isinstance(scope, Mapping):
        if scope.keys() != {"company_id", "user_id"}:
            raise TypeError("scope needs exactly company_id and user_id")
        scope = Scope(scope["company_id"], scope["user_id"])
    if not isinstance(scope, Scope):
        raise TypeError(f"scope must be an agentloop.Scope, not {scope!r}")
    for value in (scope.company_id, scope.user_id):
        if type(value) is not int:
            raise TypeError(f"a scope's ids are integers, not {value!r}")
        if not -_LARGEST_ID <= value < _LARGEST_ID:
            raise ValueError(f"a scope's ids have 64 bits at most, not {value}")
    return scope


def check_id(name: str, value: object, slug: str) -> None:
    """That an id can be one; what is no uuid is as unknown as any other.

    Raises:
        TypeError: it is no text.
        RequestError: with the slug, for one that nothing can have.
    """
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"{name} must be text, not {kind}; pass its id")
    if not is_uuid(value):
        raise RequestError(slug)


def check_number(name: str, value: object, least: int, most: int = 2**53) -> None:
    """That a number is whole and within bounds.

    Raises:
        RequestError: `invalid-request`, naming the value.
    """
    try:
        checks.whole(name, value, least, most)
    except (TypeError, ValueError) as error:
        raise bad_request(str(error)) from None


def key_of(request: Mapping[str, Any]) -> str:
    """The idempotency key of a body that starts a run; the case of a uuid is nothing.

    Raises:
        RequestError: `invalid-request`, when there is none.
    """
    if not isinstance(request, Mapping):
        raise bad_request("$: must be an object")
    key = request.get("client_op_id")
    if not isinstance(key, str) or not is_uuid(key):
        raise bad_request(f"$.client_op_id: must be a uuid, not {key!r:.60}")
    return key.lower()


def value_of(value: Any, type_: type) -> tuple[Any, int]:
    """A caller's JSON as a value, cleaned of what no store takes, and how much was.

    Raises:
        RequestError: `invalid-request`, with the JSON path.
    """
    try:
        cleaned, replaced = clean(value)
        return load(cleaned, type_), replaced
    except WireError as error:
        raise bad_request(str(error)) from None


def bad_request(problem: str) -> RequestError:
    """The refusal of a request that says something it may not."""
    return RequestError("invalid-request", problem=problem)
