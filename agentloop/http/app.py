"""The ASGI application: from a request to an operation, and from there to bytes.

Nothing leaves it but answers and problem bodies: whatever goes wrong on the way is
turned into one here, once.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from attrs import field, frozen
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from agentloop.core.catalog import RequestError
from agentloop.core.run import Scope
from agentloop.http.auth import Authenticate, admit, bearer_token
from agentloop.http.calls import Calls, Face
from agentloop.http.handlers import Answer, Asked, Desk
from agentloop.http.health import Physician
from agentloop.http.logs import LOGGER
from agentloop.http.openapi import document
from agentloop.http.operations import OPERATIONS, Operation
from agentloop.http.options import HttpOptions
from agentloop.http.problems import Reporter
from agentloop.http.reading import read_body
from agentloop.http.streams import EventStream, OpenStreams
from agentloop.ports import StoreUnavailableError
from agentloop.runtime.choices import Choices
from agentloop.runtime.system import SystemClock
from agentloop.wire import is_uuid

_CLOCK = SystemClock()


@frozen
class Application:
    """An app, and what whoever serves it needs of it.

    Its streams are ended before it drains; its reporter words what never gets as far
    as the app.
    """

    app: Starlette
    streams: OpenStreams
    reporter: Reporter


def build(face: Face, authenticate: Authenticate, options: HttpOptions) -> Application:
    """Put an app together; it starts no thread before the first request."""
    executor = ThreadPoolExecutor(options.threads, "agentloop-http")
    choices = Choices(options.threads)
    loop_options = face.watch.options
    desk = Desk(
        calls=Calls(face, authenticate, executor, choices),
        options=options,
        streams=OpenStreams(),
        physician=Physician(face.watch, options.health_timeout),
        document=document(loop_options.docs_base),
    )
    reporter = Reporter(loop_options.docs_base, options.retry_after)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            desk.physician.close()
            executor.shutdown(wait=False, cancel_futures=True)
            choices.close()

    traffic = Traffic()
    app = Starlette(
        routes=[
            Route(path, Place(desk, reporter, operations, traffic))
            for path, operations in _by_path().items()
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.router.default = Place(desk, reporter, None, traffic)
    return Application(app, desk.streams, reporter)


def _by_path() -> dict[str, dict[str, Operation]]:
    paths: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in OPERATIONS:
        paths[operation.path][operation.method] = operation
    return paths


class Counter:
    """How many requests are under way; read and written on the event loop only."""

    def __init__(self) -> None:
        self._now = 0

    @contextmanager
    def one_more(self, most: int | None) -> Iterator[None]:
        """Count one while the block runs.

        Raises:
            RequestError: `too-many-requests`, when there are as many already.
        """
        if most is not None and self._now >= most:
            raise _too_many(f"{most} requests are under way")
        self._now += 1
        try:
            yield
        finally:
            self._now -= 1


@frozen
class Traffic:
    """What is under way: a body that trickles in holds no request's place."""

    requests: Counter = field(factory=Counter)
    bodies: Counter = field(factory=Counter)


def _too_many(problem: str) -> RequestError:
    return RequestError("too-many-requests", problem=f"{problem}; try again later")


@frozen
class Place:
    """All operations of one path as an ASGI application; None: an unknown path."""

    desk: Desk
    reporter: Reporter
    operations: Mapping[str, Operation] | None
    traffic: Traffic

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        visit = Visit(self.desk.options.ids.new(), _CLOCK.monotonic())
        request = Request(scope, receive)
        try:
            response = await self._answer(request, visit)
        except ClientDisconnect:
            return
        except Exception as error:
            response, visit.facts["problem"] = self.reporter.response(
                error, scope, visit.log_id
            )
        visit.log(request, response.status_code, self._route())
        await response(scope, receive, send)

    async def _answer(self, request: Request, visit: "Visit") -> Response | EventStream:
        operation = self._operation(request.method)
        caller = await self._caller(request, operation)
        visit.note(caller, request.path_params)
        most = self.desk.options.max_requests if operation.verb else None
        body = b""
        if operation.body is not None:
            with self.traffic.bodies.one_more(most):
                body = await self._body(request)
        asked = Asked(request, caller, body)
        with self.traffic.requests.one_more(most), self._noting(operation):
            answer = await operation.handler(self.desk, asked)
        if isinstance(answer, EventStream):
            self._check_streams()
            return answer
        visit.facts.update(answer.facts)
        return _response(answer, request.method)

    def _operation(self, method: str) -> Operation:
        if self.operations is None:
            raise RequestError("not-found")
        found = self.operations.get(method)
        if found is None and method == "HEAD":
            found = self.operations.get("GET")
        if found is None or (method == "HEAD" and found.id == "run_events"):
            allowed = ", ".join(self.operations)
            raise RequestError("method-not-allowed", allowed=allowed)
        return found

    async def _caller(self, request: Request, operation: Operation) -> Scope | None:
        if operation.verb is None:
            return None
        token = bearer_token(request.headers.getlist("authorization"))
        return admit(await self.desk.calls.caller(token), operation.verb)

    @contextmanager
    def _noting(self, operation: Operation) -> Iterator[None]:
        """Have the physician hear of what writes to the store, or could not."""
        try:
            yield
        except StoreUnavailableError:
            if operation.verb == "write":
                self.desk.physician.note_write(failed=True)
            raise
        if operation.verb == "write":
            self.desk.physician.note_write(failed=False)

    async def _body(self, request: Request) -> bytes:
        limits = self.desk.calls.face.watch.options.limits
        timeout = self.desk.options.body_timeout
        return await read_body(request, limits.max_bytes, timeout)

    def _check_streams(self) -> None:
        most = self.desk.options.max_streams
        if most is not None and len(self.desk.streams) >= most:
            raise _too_many(f"{most} event streams are open")

    def _route(self) -> str | None:
        """The path with the names of its ids, never the ids themselves."""
        if self.operations is None:
            return None
        return next(iter(self.operations.values())).path


@frozen
class Visit:
    """What the log tells of one request."""

    log_id: str
    began: float
    facts: dict[str, object] = field(factory=dict)

    def note(self, caller: Scope | None, ids: Mapping[str, Any]) -> None:
        """Whose request it is, and which resources it names."""
        if caller is not None:
            self.facts["company_id"] = caller.company_id
            self.facts["user_id"] = caller.user_id
        # Only well-formed ids: the rest is what a caller made up.
        named = {name: str(id_) for name, id_ in ids.items()}
        self.facts.update({n: id_.lower() for n, id_ in named.items() if is_uuid(id_)})

    def log(self, request: Request, status: int, route: str | None) -> None:
        """One line for the request, when its answer is known."""
        spent = round(_CLOCK.monotonic() - self.began, 6)
        LOGGER.info(
            "%s %s %s",
            request.method,
            route or "-",
            status,
            extra={
                **self.facts,
                "log_id": self.log_id,
                "method": request.method,
                "route": route,
                "status": status,
                "seconds": spent,
            },
        )


def _response(answer: Answer, method: str) -> Response:
    headers = {"cache-control": "no-store"}
    if answer.body is None:
        return Response(status_code=answer.status, headers=headers)
    if method == "HEAD":
        headers["content-length"] = str(len(answer.body))
        return Response(None, answer.status, headers, "application/json")
    return Response(answer.body, answer.status, headers, "application/json")
