"""Structured logs: ids, names and numbers, never what was said and no secrets.

Facts travel in `extra`. `JsonFormatter` writes them as one JSON object a line;
`PlainFormatter` adds what a refused caller may ask about. With any other formatter
the message stands for itself.
"""

import logging
from collections.abc import Iterable
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


class PlainFormatter(logging.Formatter):
    """A line of text for each record; of a refusal with its slug and `log_id`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's
        """The record's line, before any traceback."""
        line = super().formatMessage(record)
        problem = getattr(record, "problem", None)
        if problem is None:
            return line
        return f"{line} [{problem} {getattr(record, 'log_id', '-')}]"


def configure_logging(
    *, json: bool, level: int = logging.INFO, also: Iterable[str] = ()
) -> None:
    """Send the records of this library to stderr, as JSON or as plain lines.

    Args:
        json: one JSON object a line instead of text.
        level: what is written of this library.
        also: loggers of others, whose warnings and errors are to look the same.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if json else PlainFormatter())
    levels = {"agentloop": level} | dict.fromkeys(also, logging.WARNING)
    for name, threshold in levels.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(threshold)
        logger.propagate = False


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
