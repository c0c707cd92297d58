"""What is stored of an attempt, once it ended: its record, rendered for the store.

The record holds what the attempt came to, and what encoding its request again needs
(contract section 12). What it has nothing to say of is left out. Ids, states and
messages are not this room's business.
"""

from datetime import datetime
from typing import Any

from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.core.values import value
from agentloop.ports import AttemptReport, AttemptRow
from agentloop.wire import instant, to_json, usage_json
from agentloop.wire.checkpoint import versioned


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
    command, event = done.command, done.event
    body: dict[str, Any] = {
        "number": command.attempt,
        "outcome": "ok",
        "started_at": instant(done.began),
        "completed_at": instant(done.ended),
    }
    if isinstance(event, ModelFailed):
        failure = event.failure
        why = {"code": failure.code, "message": failure.message}
        body |= {"outcome": failure.kind, **why}
    if event.usage is not None:
        body["usage"] = usage_json(event.usage)
    if done.streamed:
        body["streamed"] = True
    return AttemptRow(
        run_id=run_id,
        iteration=command.iteration,
        number=command.attempt,
        body=versioned(body | _reported(done.report)),
        response=done.report.response,
    )


def _reported(report: AttemptReport) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if report.provider_request_id is not None:
        told["provider_request_id"] = report.provider_request_id
    if report.request_sha256 is not None:
        told["request_sha256"] = report.request_sha256
    if report.notes:
        told["notes"] = list(report.notes)
    if report.preceding:
        told["preceding"] = [to_json(one) for one in report.preceding]
    return told


def lost_row(run_id: str, iteration: int, number: int) -> AttemptRow:
    """The row of an attempt whose worker is gone."""
    body = versioned({"number": number, "outcome": "lost"})
    return AttemptRow(run_id=run_id, iteration=iteration, number=number, body=body)
