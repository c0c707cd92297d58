"""Handing a finished body to botocore, and why that is safe.

What it saves. botocore validates and serialises the whole conversation on every call,
so a run of N turns costs it N² message encodings; that is most of the CPU time of a
long run. We encode each message once. The last step is to get the finished bytes into
the request, and botocore has a place for that: it emits the event
`before-call.bedrock-runtime.Converse` when the request is serialised and not yet
signed. A handler there may change the request; that is what the event is for.

What happens in a call. `client.converse(modelId=...)` is called with nothing but the
model id, under a token kept in a thread-local variable. botocore resolves the
endpoint, serialises the empty request `{}` and emits the event. Our handler finds the
token, sees that the body is `{}` and the request unsigned, and puts our bytes in its
place. Everything after that is botocore's own: credentials, signing (over our bytes),
connection pool, TLS, proxies, retries as the client was configured, parsing, errors.

Why the bytes are right. They are what botocore itself would have written for the same
request. That is not an assumption: when a client is first used, and before anything
is sent, a conversation that holds every kind of block, and the request at hand, are
serialised by botocore's own serialiser with the client's own service model and compared
byte for byte. A property test does the same for thousands of conversations.

What keeps it from going wrong:

- No token, no effect. For the host's own calls on the same client the handler returns
  at once; the token is taken on first sight, so that a call made from within another
  handler does not see it either. Threads have tokens of their own.
- An empty request is the safest there is. Were our handler ever skipped, Bedrock would
  refuse `{}` and bill nothing; no model ever sees a placeholder.
- Nobody is bypassed in silence. A handler that changes parameters or bodies leaves
  something other than `{}` behind: the call is abandoned before it is sent and made the
  plain way. Who wants to read parameters (tracers that wrap `converse` or botocore's
  `_make_api_call`, handlers of `provide-client-params` and `before-parameter-build`,
  botocore's Stubber) is noticed beforehand, and the plain way is taken, so that they
  see the whole request. Handlers after serialisation see our body in its place.
- Every doubt has one answer: the plain way, `client.converse(**parameters)`, with a
  warning in the log and in the attempt's notes. It costs CPU time and nothing else.
- A rehearsal when a client is first used runs the whole path up to the handler and
  stops there, so that a botocore with another order of events is found out offline.

The same handler passes on how long an attempt may take: botocore reads `read_timeout`
from the request's context, from 1.43 on. Older ones keep the client's.

`hand_over=False` turns all of this off; then nothing is registered on the client.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Final, Literal, TypeAlias

from agentloop.backends.bedrock.codec import blobs_to_bytes
from agentloop.core.values import value
from agentloop.wire import undump

Operation: TypeAlias = Literal["Converse", "ConverseStream"]

_METHODS: Final[Mapping[Operation, str]] = {
    "Converse": "converse",
    "ConverseStream": "converse_stream",
}
_EMPTY: Final = b"{}"
_UNIQUE: Final = "agentloop-hand-over"
_PARAMETER_EVENTS: Final = ("provide-client-params", "before-parameter-build")
_LOG: Final = logging.getLogger(__name__)


@value
class Errand:
    """One call to make: the operation, the model, the body, the patience."""

    operation: Operation
    model_id: str
    body: bytes
    read_timeout: float | None = None


class DisturbedError(Exception):
    """Something changed or signed the request before our turn; nothing was sent."""


class _RehearsedError(Exception):
    """A rehearsal reached the handler; nothing was sent."""


# ---------------------------------------------------------------- the handler


class _Token:
    """What the handler is to do in the one call that this thread is making."""

    def __init__(self, body: bytes | None, read_timeout: float | None) -> None:
        self.body = body
        self.read_timeout = read_timeout
        self.rehearsal = False
        self.sent: bytes | None = None


class _Here(threading.local):
    token: _Token | None = None


_HERE: Final = _Here()


def _before_call(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    """The handler; does nothing in a call that is not ours."""
    token = _HERE.token
    if token is None:
        return
    _HERE.token = None
    if token.read_timeout is not None:
        context["read_timeout"] = token.read_timeout
    if token.body is not None:
        signed = "authorization" in map(str.lower, params["headers"])
        if params.get("body") != _EMPTY or signed:
            raise DisturbedError("the request was changed before our handler ran")
        if token.rehearsal:
            raise _RehearsedError
        params["body"] = token.body
    body = params.get("body")
    token.sent = body if isinstance(body, bytes) else None


def _listen(client: Any) -> None:
    """Register the handler on a client, once however often this is called."""
    for operation in _METHODS:
        client.meta.events.register_first(
            f"before-call.bedrock-runtime.{operation}",
            _before_call,
            unique_id=f"{_UNIQUE}-{operation}",
        )


# ---------------------------------------------------------------- the door


class Door:
    """The way to one client: handing over while it is safe, plain otherwise.

    Shared by all threads. `reason` says why the plain way is taken, None while
    bodies are handed over.
    """

    def __init__(
        self, client: Any, sample: Callable[[], bytes], *, hand_over: bool
    ) -> None:
        self.client = client
        self.reason: str | None = None if hand_over else "switched off"
        self._sample = sample
        self._listening = False
        self._checked = False
        self._lock = threading.Lock()
        self._writes_alike = True

    def call(self, errand: Errand) -> tuple[Any, bytes, str | None]:
        """Make the call: botocore's reply, the body as sent, a warning or None.

        The reply of a stream still has to be read. Whatever the call raises goes
        through.
        """
        before = self.reason
        self._check(errand)
        if self.reason is None:
            reader = _reader(self.client, errand.operation)
            if reader is None:
                try:
                    return (*self._handed_over(errand), None)
                except DisturbedError as error:
                    self._give_up(str(error))
            else:
                self._give_up(reader)
        warning = self.reason if self.reason != before else None
        told = None if warning is None else f"botocore serialises itself: {warning}"
        return (*self._plain(errand), told)

    def body(self, errand: Errand) -> bytes:
        """The body that `call` sends: ours, unless botocore would write another."""
        if self._writes_alike:
            return errand.body
        return serialised(self.client, errand)

    # ------------------------------------------------------------ two ways

    def _handed_over(self, errand: Errand) -> tuple[Any, bytes]:
        token = _Token(errand.body, errand.read_timeout)
        return self._under(token, errand, {}), errand.body

    def _plain(self, errand: Errand) -> tuple[Any, bytes]:
        token = _Token(None, errand.read_timeout)
        reply = self._under(token, errand, parameters(errand.body))
        return reply, token.sent or self.body(errand)

    def _under(self, token: _Token, errand: Errand, params: Mapping[str, Any]) -> Any:
        """Call the client with the token in place, if the handler is there."""
        method = getattr(self.client, _METHODS[errand.operation])
        if not self._listening:
            return method(modelId=errand.model_id, **params)
        _HERE.token = token
        try:
            return method(modelId=errand.model_id, **params)
        finally:
            _HERE.token = None

    # ------------------------------------------------------------ the first use

    def _check(self, errand: Errand) -> None:
        """Once, before anything is sent: are bytes and events as we believe?"""
        if self._checked:
            return
        with self._lock:
            if self._checked:
                return
            try:
                problem = self._problem(errand)
            except Exception as error:  # any surprise means: let botocore do it
                problem = f"the check of the client failed ({type(error).__name__})"
            if problem is not None:
                self._give_up(problem)
            self._checked = True

    def _problem(self, errand: Errand) -> str | None:
        for body in (self._sample(), errand.body):
            ours = Errand(
                operation=errand.operation, model_id=errand.model_id, body=body
            )
            if serialised(self.client, ours) != body:
                self._writes_alike = False
                return "this botocore serialises a request differently"
        if self.reason is not None:
            return None
        _listen(self.client)
        self._listening = True
        if reader := _reader(self.client, errand.operation):
            return reader
        if not all(self._rehearsed(operation, errand) for operation in _METHODS):
            return "this botocore emits its events differently"
        return None

    def _rehearsed(self, operation: Operation, errand: Errand) -> bool:
        token = _Token(errand.body, None)
        token.rehearsal = True
        rehearsal = Errand(operation=operation, model_id=errand.model_id, body=b"")
        try:
            self._under(token, rehearsal, {})
        except _RehearsedError:
            return True
        return False

    def _give_up(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            _LOG.warning("bodies are no longer handed over to botocore: %s", reason)


# ---------------------------------------------------------------- botocore's own


def parameters(body: bytes) -> dict[str, Any]:
    """The keyword arguments of `converse` that a body stands for."""
    params: dict[str, Any] = blobs_to_bytes(undump(body.decode("ascii")))
    return params


def serialised(client: Any, errand: Errand) -> bytes:
    """What botocore itself writes for the request, by the client's own model."""
    from botocore.serialize import create_serializer

    model = client.meta.service_model
    serializer = create_serializer(model.resolved_protocol, include_validation=False)
    request = serializer.serialize_to_request(
        {"modelId": errand.model_id, **parameters(errand.body)},
        model.operation_model(errand.operation),
    )
    body = request["body"]
    return body if isinstance(body, bytes) else str(body).encode()


def _reader(client: Any, operation: Operation) -> str | None:
    """Who wants to see the parameters of a call, in words; asked before each call."""
    method = _METHODS[operation]
    own, kind = vars(client), type(client)
    if method in own or not _is_botocores(getattr(kind, method)):
        return f"client.{method} is wrapped"
    if "_make_api_call" in own or not _is_botocores(kind._make_api_call):
        return "botocore's _make_api_call is wrapped"
    for event in _PARAMETER_EVENTS:
        handlers = _handlers(client, f"{event}.bedrock-runtime.{operation}")
        if not all(map(_is_botocores, handlers)):
            return f"a handler reads the parameters ({event})"
    return None


def _handlers(client: Any, event: str) -> Iterable[Any]:
    """The handlers of an event; botocore has no public way to list them.

    Where this private one is gone, the error it raises ends in the plain way.
    """
    found: Iterable[Any] = client.meta.events._emitter._handlers.prefix_search(event)
    return found


def _is_botocores(function: Any) -> bool:
    """Whether a function is botocore's own, its test stubs not counted."""
    plain = getattr(function, "__func__", function)
    return type(plain) is FunctionType and _in_botocore(plain.__code__.co_filename)


@cache
def _in_botocore(filename: str) -> bool:
    import botocore

    source = Path(filename)
    return source.parent == Path(botocore.__file__).parent and source.stem != "stub"
