"""Structured logs: ids, names and numbers, never what was said and no secrets.

Facts travel in `extra`. `JsonFormatter` writes them as one JSON object a line;
with any other formatter the message stands for itself.
"""

import logging
from datetime import UTC, datetime
from typing import Any, Final

from agentloop.core.run import RunEvent
from agentloop.wire import dump, instant

LOGGER: Final = logging.getLogger("agentloop.http")
RUN_LOGGER: Final = logging.getLogger("agentloop.runs")

FACTS: Final = (
    "log_id",
    "method",
    "route",
    "status",
    "problem",
    "seconds",
    "company_id",
    "user_id",
    "conversation_id",
    "run_id",
    "job_id",
    "event",
    "iteration",
    "attempt",
    "delay",
    "reason",
    "code",
    "name_of_tool",
    "run_status",
    "run_error",
)
"""The facts a record may carry; what is not listed here is not written."""


class JsonFormatter(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON."""
        line: dict[str, Any] = {
            "time": instant(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for fact in FACTS:
            value = getattr(record, fact, None)
            if value is not None:
                line[fact] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return dump(line)


def configure_logging(*, json: bool, level: int = logging.INFO) -> None:
    """Send the records of this library to stderr, as JSON or as plain lines."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if json else plain)
    root = logging.getLogger("agentloop")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def log_run_event(run_id: str, event: RunEvent) -> None:
    """An observer for a loop: every kept event of every run as a record."""
    if event.id is None:
        return
    data = event.data
    RUN_LOGGER.info(
        "run %s: %s",
        run_id,
        event.kind,
        extra={
            "run_id": run_id,
            "event": event.kind,
            "job_id": data.get("job_id"),
            "iteration": data.get("iteration"),
            "attempt": data.get("attempt"),
            "delay": data.get("delay"),
            "reason": data.get("reason"),
            "code": data.get("code"),
            "name_of_tool": data.get("name"),
            "run_status": data.get("status"),
            "run_error": data.get("error"),
        },
    )
