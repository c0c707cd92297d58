"""`FakeBedrock`: the server, its script and what it saw.

The parts stand beside it: `loopback` moves bytes, `rules` judges, `replies` are
values, `delivery` sends them. This room holds the state that ties them together.
"""

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeAlias
from urllib.parse import unquote

from agentloop.testing.fake_bedrock.client import bedrock_client
from agentloop.testing.fake_bedrock.delivery import Delivery, deliver, fail
from agentloop.testing.fake_bedrock.loopback import Channel, HttpRequest, Listener
from agentloop.testing.fake_bedrock.records import (
    Operation,
    Received,
    Refused,
    described,
)
from agentloop.testing.fake_bedrock.replies import Failure, Reply, checked, fails
from agentloop.testing.fake_bedrock.rules import Violation, first_violation, malformed
from agentloop.testing.fake_bedrock.values import Json

Judge: TypeAlias = Callable[[str, Json], Violation | None]

_PATH: Final = re.compile(r"/model/([^/]+)/(converse|converse-stream)(?:\?.*)?")
_OPERATIONS: Final[Mapping[str, Operation]] = {
    "converse": "converse",
    "converse-stream": "converse_stream",
}


class ScriptError(AssertionError):
    """A script and what was asked of it do not fit; the message shows both."""


def accept_anything(model_id: str, body: Json) -> Violation | None:  # noqa: ARG001 - the judge's signature
    """A judge for load tests: no rule is applied."""
    return None


class FakeBedrock:
    """Bedrock on loopback, for the real boto3 client.

        with FakeBedrock(says("hello")) as bedrock:
            reply = bedrock.client().converse(modelId=..., messages=[...])
            assert bedrock.requests[0].last_user_text == "hi"

    Replies are consumed in order, one per legal request. An illegal request is refused
    like Bedrock refuses it and consumes nothing; a request without a reply is refused
    loudly. Leaving the block checks that the script was followed.

    Args:
        *replies: The script; `script` adds to it.
        default: The reply when the script is used up, for as long as asked.
        latency: Seconds to wait before every reply.
        judge: What decides whether a request is legal; `accept_anything` for none.
        keep: How many requests to remember; all of them when left out.

    Raises:
        TypeError: Something in the script is no reply.
    """

    def __init__(
        self,
        *replies: Reply,
        default: Reply | None = None,
        latency: float = 0.0,
        judge: Judge = first_violation,
        keep: int | None = None,
    ) -> None:
        self._script = deque(map(checked, replies))
        self._default = None if default is None else checked(default)
        self._latency = latency
        self._judge = judge
        self._lock = threading.Lock()
        self._received: deque[Received] = deque(maxlen=keep)
        self._unexpected: list[Received] = []
        self._refused: list[Refused] = []
        self._crashes: list[tuple[Received, Exception]] = []
        self._clients: list[Any] = []
        self._number = self._inferences = self._flying = self._most_flying = 0
        self._listener = Listener(self._exchange)

    # -- life ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None:
            self.assert_done()

    def close(self) -> None:
        """Stop: waits are woken, connections closed, threads joined."""
        self._listener.close()
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    @property
    def url(self) -> str:
        """The endpoint URL."""
        return self._listener.url

    def client(self, **config: object) -> Any:
        """A real boto3 client for this fake, closed together with it.

        Args:
            **config: Options of `botocore.config.Config`, like `read_timeout`,
                `retries` or `max_pool_connections`. By default a call is one attempt.
        """
        client = bedrock_client(self.url, **config)
        with self._lock:
            self._clients.append(client)
        return client

    # -- script -------------------------------------------------------------------

    def script(self, *replies: Reply) -> Self:
        """Add replies to the script."""
        more = [checked(reply) for reply in replies]
        with self._lock:
            self._script.extend(more)
        return self

    def always(self, reply: Reply) -> Self:
        """Answer with this whenever the script is used up."""
        with self._lock:
            self._default = checked(reply)
        return self

    def assert_done(self) -> None:
        """Check that every reply was used and every request had one.

        Raises:
            ScriptError: Replies are left, requests came without one, or a computed
                reply failed.
        """
        faults = list(self._faults())
        if faults:
            raise ScriptError("\n".join([*faults, *self._transcript()]))

    # -- what happened ------------------------------------------------------------

    @property
    def requests(self) -> list[Received]:
        """The requests that were received, in order of arrival."""
        with self._lock:
            return list(self._received)

    @property
    def unexpected(self) -> list[Received]:
        """The legal requests the script had no reply for."""
        with self._lock:
            return list(self._unexpected)

    @property
    def refused(self) -> list[Refused]:
        """The requests that broke a rule, with the rule and the answer."""
        with self._lock:
            return list(self._refused)

    @property
    def unused(self) -> list[Reply]:
        """The replies nobody asked for yet."""
        with self._lock:
            return list(self._script)

    @property
    def inferences(self) -> int:
        """How often a model would have run; errors do not count, broken replies do."""
        with self._lock:
            return self._inferences

    @property
    def most_in_flight(self) -> int:
        """The largest number of requests that were open at once."""
        with self._lock:
            return self._most_flying

    # -- one exchange -------------------------------------------------------------

    def _exchange(self, http: HttpRequest, channel: Channel) -> None:
        with self._in_flight():
            found = _PATH.fullmatch(http.path)
            if http.method != "POST" or not found:
                _unknown_operation(channel, http)
                return
            body, reason = _parsed(http.body)
            request = self._receive(http, found, body)
            delivery = Delivery(request, channel, self._wait, self._count_inference)
            try:
                deliver(delivery, self._decided(request, reason))
            except OSError:
                channel.drop()  # the client left
            except Exception as error:  # a script's own failure is reported
                self._crashed(delivery, error)

    def _decided(self, request: Received, reason: str) -> Reply:
        broken = (
            Violation("json", malformed(reason))
            if reason
            else self._judge(request.model_id, request.body)
        )
        if broken:
            with self._lock:
                self._refused.append(Refused(request, broken.rule, broken.message))
            return fails(broken.code, message=broken.message)
        reply = self._next(request)
        if self._latency:
            self._wait(self._latency)
        return reply

    def _next(self, request: Received) -> Reply:
        with self._lock:
            if self._script:
                return self._script.popleft()
            if self._default is not None:
                return self._default
            self._unexpected.append(request)
        return fails(
            "UnexpectedRequest",
            400,
            f"the script has no reply for {described(request)}",
        )

    def _receive(self, http: HttpRequest, found: re.Match[str], body: Json) -> Received:
        with self._lock:
            self._number += 1
            request = Received(
                number=self._number,
                operation=_OPERATIONS[found[2]],
                model_id=unquote(found[1]),
                request_id=f"00000000-0000-4000-8000-{self._number:012d}",
                body=body,
                raw=http.body,
                headers=http.headers,
            )
            self._received.append(request)
        return request

    def _crashed(self, delivery: Delivery, error: Exception) -> None:
        with self._lock:
            self._crashes.append((delivery.request, error))
        said = f"the reply to {described(delivery.request)} failed: {error!r}"
        try:
            fail(delivery, Failure("ScriptFailed", 400, said))
        except OSError:
            delivery.channel.drop()

    def _wait(self, seconds: float) -> bool:
        return not self._listener.closing.wait(seconds)

    def _count_inference(self) -> None:
        with self._lock:
            self._inferences += 1

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        with self._lock:
            self._flying += 1
            self._most_flying = max(self._most_flying, self._flying)
        try:
            yield
        finally:
            with self._lock:
                self._flying -= 1

    def _faults(self) -> Iterator[str]:
        for request in self.unexpected:
            yield f"unexpected request {described(request)}"
        with self._lock:
            crashes = list(self._crashes)
        for request, error in crashes:
            yield f"the reply to {described(request)} failed: {error!r}"
        for reply in self.unused:
            yield f"unused reply {reply!r}"

    def _transcript(self) -> Iterator[str]:
        refused = {entry.request.number: entry.message for entry in self.refused}
        yield f"{len(self.requests)} requests were received:"
        for request in self.requests:
            answer = refused.get(request.number)
            yield f"  {described(request)}{f' REFUSED: {answer}' if answer else ''}"


def _parsed(raw: bytes) -> tuple[Json, str]:
    """The JSON object of a body, or an empty one and what is wrong with it."""
    try:
        body: object = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        return {}, "the document is nested too deeply"
    except ValueError as error:  # bad JSON and bad UTF-8 alike
        return {}, str(error)
    if not isinstance(body, dict):
        return {}, "the body is no JSON object"
    return body, ""


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")


def _unknown_operation(channel: Channel, http: HttpRequest) -> None:
    body = {"message": f"no operation at {http.method} {http.path}"}
    headers = {
        "Content-Type": "application/json",
        "x-amzn-ErrorType": "UnknownOperationException",
    }
    channel.reply(404, headers, json.dumps(body).encode())
