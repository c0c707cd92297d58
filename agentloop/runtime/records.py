"""What is stored of an attempt, once it ended: its record, rendered for the store.

The record holds what the attempt came to, and what encoding its request again needs
(contract section 12). What it has nothing to say of is left out. Ids, states and
messages are not this room's business.
"""

from collections.abc import Iterator
from datetime import datetime

from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.core.values import value
from agentloop.ports import AttemptReport, AttemptRow
from agentloop.wire import SCHEMA_VERSION, dump, instant, quoted, to_json
from agentloop.wire.checkpoint import versioned
from agentloop.wire.lines import usage_text


@value
class Attempted:
    """An attempt that ended, with what the backend reported of it."""

    command: Infer
    event: ModelReplied | ModelFailed
    report: AttemptReport
    streamed: bool
    began: datetime
    ended: datetime


def attempt_row(run_id: str, done: Attempted) -> AttemptRow:
    """The row of an attempt that ended."""
    command, report = done.command, done.report
    return AttemptRow(
        run_id=run_id,
        iteration=command.iteration,
        number=command.attempt,
        body=_record(done),
        response=report.response,
    )


def _record(done: Attempted) -> str:
    """The record, joined rather than encoded: see `wire.lines`."""
    event = done.event
    text = (
        f'{{"v":{SCHEMA_VERSION},"number":{done.command.attempt},{_came_to(event)}'
        f',"started_at":"{instant(done.began)}","completed_at":"{instant(done.ended)}"'
    )
    if event.usage is not None:
        text += f',"usage":{usage_text(event.usage)}'
    report = done.report
    if report.request_sha256 is not None:
        text += f',"request_sha256":{quoted(report.request_sha256)}'
    if report.provider_request_id is not None:
        text += f',"provider_request_id":{quoted(report.provider_request_id)}'
    if done.streamed or report.notes or report.preceding:
        text += "".join(_rarely_told(done))
    return text + "}"


def _came_to(event: ModelReplied | ModelFailed) -> str:
    if isinstance(event, ModelReplied):
        return '"outcome":"ok"'
    failure = event.failure
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
