"""Refusals and failures as RFC 7807 problem bodies (contract section 1.8).

Nothing of an unexpected exception reaches the caller: it stands in the log, under
the `log_id` that the body carries.
"""

from typing import Final
from urllib.parse import quote

from attrs import frozen
from starlette.responses import Response
from starlette.types import Scope as AsgiScope

from agentloop.core.catalog import RequestError
from agentloop.http.logs import LOGGER
from agentloop.ports import StoreUnavailableError
from agentloop.runtime.present import StoredFieldError
from agentloop.wire import dump

MEDIA_TYPE: Final = "application/problem+json"
MAX_DETAIL: Final = 4096
"""Characters of a detail; a caller's own megabytes are not sent back."""
WAITING: Final = frozenset({429, 503})
_URI_CHARACTERS: Final = "/:@!$&'()*+,;=~-._"


@frozen
class Reporter:
    """Makes the problem responses of one app."""

    docs_base: str
    retry_after: int

    def response(
        self, error: Exception, scope: AsgiScope, log_id: str
    ) -> tuple[Response, str]:
        """The response to what went wrong, and its slug; the rest is logged."""
        refusal = _refusal(error)
        _log_fault(error, refusal, log_id)
        body = {
            "type": f"{self.docs_base}{refusal.slug}",
            "title": refusal.incident.title,
            "status": refusal.status,
            "detail": _capped(refusal.detail),
            "instance": _instance(scope),
            "log_id": log_id,
        }
        headers = self._headers(refusal)
        response = Response(dump(body), refusal.status, headers, MEDIA_TYPE)
        return response, refusal.slug

    def _headers(self, refusal: RequestError) -> dict[str, str]:
        headers = {"cache-control": "no-store"}
        if refusal.status == 401:
            headers["www-authenticate"] = "Bearer"
        if refusal.status == 408:
            headers["connection"] = "close"  # what else arrives is not a request
        if refusal.status in WAITING:
            headers["retry-after"] = str(self.retry_after)
        if refusal.status == 405:
            headers["allow"] = str(refusal.facts["allowed"])
        return headers


def _refusal(error: Exception) -> RequestError:
    match error:
        case RequestError():
            return error
        case StoreUnavailableError():
            return RequestError("store-unavailable")
        case _:
            return RequestError("internal-error")


def _log_fault(error: Exception, refusal: RequestError, log_id: str) -> None:
    """Say what the caller is not told; refusals are told all."""
    if refusal.status < 500:
        return
    extra = {"log_id": log_id, "problem": refusal.slug, "status": refusal.status}
    match error:
        case StoredFieldError(problem=problem):
            LOGGER.error("%s: a stored field: %s", log_id, problem, extra=extra)
        case StoreUnavailableError():
            LOGGER.warning("%s: the store: %s", log_id, error, extra=extra)
        case RequestError():
            LOGGER.error("%s: %s", log_id, refusal.slug, extra=extra)
        case _:
            LOGGER.error("%s: unexpected", log_id, exc_info=error, extra=extra)


def _capped(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 1]}…"


def _instance(scope: AsgiScope) -> str:
    """The path of the request as a URI reference."""
    path = str(scope["path"])
    return quote(path.encode("utf-8", "replace"), safe=_URI_CHARACTERS)
