"""What is stored of attempts and events, whose texts are made when a store reads them.

A store on a disk reads them at once; one in memory keeps the records as they are and
makes a text when somebody asks for it, which for most of them is never. So a record
holds values that nobody changes, and nothing that has no JSON form.

The record of an attempt holds what it came to, and what encoding its request again
needs (contract section 12). What it has nothing to say of is left out. Ids, states
and messages are not this room's business.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from agentloop.core.catalog import Failure
from agentloop.core.run import EventKind, Usage
from agentloop.core.values import value
from agentloop.ports import AttemptReport, AttemptRow
from agentloop.wire import SCHEMA_VERSION, dump, instant, quoted, to_json
from agentloop.wire.checkpoint import versioned
from agentloop.wire.lines import usage_text


@value
class Happening:
    """A `NewEvent`: what a run tells, under its number."""

    id: int
    kind: EventKind
    data: dict[str, Any]

    @property
    def body(self) -> str:
        """Its text."""
        return f'{{"kind":"{self.kind}","data":{dump(self.data)}}}'


@value
class Attempted:
    """A `NewAttempt`: one that ended, with what the backend reported of it.

    `failure` is None where the model replied.
    """

    run_id: str
    iteration: int
    number: int
    failure: Failure | None
    usage: Usage | None
    report: AttemptReport
    streamed: bool
    began: datetime
    ended: datetime

    @property
    def response(self) -> str | None:
        """The provider's answer, verbatim."""
        return self.report.response

    @property
    def body(self) -> str:
        """Its text, joined rather than encoded: see `wire.lines`."""
        text = (
            f'{{"v":{SCHEMA_VERSION},"number":{self.number},{_came_to(self.failure)}'
            f',"started_at":"{instant(self.began)}"'
            f',"completed_at":"{instant(self.ended)}"'
        )
        if self.usage is not None:
            text += f',"usage":{usage_text(self.usage)}'
        report = self.report
        if report.request_sha256 is not None:
            text += f',"request_sha256":{quoted(report.request_sha256)}'
        if report.provider_request_id is not None:
            text += f',"provider_request_id":{quoted(report.provider_request_id)}'
        if self.streamed or report.notes or report.preceding:
            text += "".join(_rarely_told(self))
        return text + "}"


def _came_to(failure: Failure | None) -> str:
    if failure is None:
        return '"outcome":"ok"'
    code = "" if failure.code is None else f',"code":{quoted(failure.code)}'
    told = f'"outcome":{quoted(failure.kind)},"message":{quoted(failure.message)}'
    return told + code


def _rarely_told(done: Attempted) -> Iterator[str]:
    if done.streamed:
        yield ',"streamed":true'
    if done.report.notes:
        yield f',"notes":{dump(list(done.report.notes))}'
    if done.report.preceding:
        yield f',"preceding":{dump([to_json(one) for one in done.report.preceding])}'


def lost_row(
    run_id: str, iteration: int, number: int, remembered: str | None
) -> AttemptRow:
    """The row of an attempt whose worker is gone, with what its backend remembered."""
    known = {} if remembered is None else {"provider_request_id": remembered}
    body = versioned({"number": number, "outcome": "lost", **known})
    return AttemptRow(run_id=run_id, iteration=iteration, number=number, body=body)
