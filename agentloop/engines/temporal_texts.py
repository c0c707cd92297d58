"""What Temporal is given to keep: small JSON texts of ours, and nothing else.

Every payload is the text of one JSON object that carries the schema version; what a
model or a tool said is never in one, because the workflow knows standings only and
the store holds the rest. The converter puts texts into payloads as they are, so that
Temporal's own tools show them as JSON, and refuses whatever is too large: a payload
beyond 256 KB is one that Temporal warns of, and a mistake here. This room is loaded
into the workflow's sandbox and must stay pure.
"""

from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.converter import (
    BinaryNullPayloadConverter,
    EncodingPayloadConverter,
    JSONProtoPayloadConverter,
    PayloadConverter,
)

from agentloop.ports.engine import RunRef
from agentloop.wire.checkpoint import unversioned, versioned
from agentloop.wire.standing import Standing, standing_from, standing_text
from agentloop.wire.text import WireError, dump, undump

MAX_PAYLOAD: Final = 256 * 1024
"""Bytes; Temporal's documented limit is 2 MB, and it warns from here on."""
FOREVER: Final = 30 * 86400.0
"""Seconds that a command may take where the host sets no time."""


@frozen(kw_only=True)
class Pace:
    """How long commands may take, in seconds, as the worker's options say.

    Attributes:
        infer: one inference.
        discover: asking all servers for their tools.
        call: one tool call, with all of its attempts.
    """

    infer: float = FOREVER
    discover: float = FOREVER
    call: float = FOREVER


@frozen
class Place:
    """Where a workflow is with its run: the standing, and the pace it learned."""

    standing: Standing
    pace: Pace


@frozen
class Order:
    """What a workflow is asked to do: a run, and where it goes on.

    Attributes:
        run: the run.
        commands: how many commands one history holds before the next is begun.
        silence: seconds after which a worker that says nothing counts as dead.
        place: where the history before this one ended.
    """

    run: RunRef
    commands: int
    silence: float
    place: Place | None = None


def order_text(order: Order) -> str:
    """An order as text."""
    place = order.place
    return versioned(
        {
            "run_id": order.run.run_id,
            "company_id": order.run.company_id,
            "commands": order.commands,
            "silence": order.silence,
            "place": None if place is None else undump(place_text(place)),
        }
    )


def order_from(text: str) -> Order:
    """The order that was written.

    Raises:
        WireError: it is damaged, or a newer version of this library wrote it.
    """
    value = unversioned(text)
    try:
        place = value["place"]
        return Order(
            RunRef(value["run_id"], value["company_id"]),
            value["commands"],
            value["silence"],
            None if place is None else place_from(dump(place)),
        )
    except (KeyError, TypeError) as error:
        raise WireError("$", f"damaged order: {error!r}") from None


def place_text(place: Place) -> str:
    """A place as text: a standing's, with the pace beside it."""
    pace = place.pace
    return versioned(
        {
            **unversioned(standing_text(place.standing)),
            "pace": [pace.infer, pace.discover, pace.call],
        }
    )


def place_from(text: str) -> Place:
    """The place that was written.

    Raises:
        WireError: it is damaged, or a newer version of this library wrote it.
    """
    try:
        infer, discover, call = unversioned(text)["pace"]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError("$.pace", f"damaged: {error!r}") from None
    pace = Pace(infer=infer, discover=discover, call=call)
    return Place(standing_from(text), pace)


def end_text(status: str) -> str:
    """What a workflow returns: the run's status, or that it was removed."""
    return versioned({"status": status})


class PayloadTooLargeError(ValueError):
    """Something other than a standing was about to be given to the engine."""


class TextPayloads(PayloadConverter):
    """Texts as payloads, unchanged, and never a large one.

    Temporal's own values (nothing at all, its protocol's messages, the text of a
    stack trace) pass as they would without it.
    """

    def to_payloads(self, values: Sequence[object]) -> list[Payload]:
        """One payload for each value."""
        return [_small(_payload(value)) for value in values]

    def from_payloads(
        self,
        payloads: Sequence[Payload],
        type_hints: Sequence[type] | None = None,
    ) -> list[Any]:
        """One value for each payload."""
        hints = list(type_hints or ())
        hints += [object] * (len(payloads) - len(hints))
        return [
            RawValue(payload) if hint is RawValue else _value(payload, hint)
            for payload, hint in zip(payloads, hints, strict=True)
        ]


_TEXT: Final = b"json/plain"
_OTHERS: Final[tuple[EncodingPayloadConverter, ...]] = (
    BinaryNullPayloadConverter(),
    JSONProtoPayloadConverter(),
)


def _payload(value: object) -> Payload:
    if isinstance(value, RawValue):
        return value.payload
    if isinstance(value, str):
        text = value if value.startswith("{") else dump(value)
        return Payload(metadata={"encoding": _TEXT}, data=text.encode())
    for converter in _OTHERS:
        if (payload := converter.to_payload(value)) is not None:
            return payload
    raise TypeError(f"{type(value).__name__} is none of what the engine is given")


def _value(payload: Payload, hint: type) -> object:
    encoding = payload.metadata.get("encoding", b"")
    if encoding == _TEXT:
        text = payload.data.decode()
        return text if text.startswith("{") else undump(text)
    for converter in _OTHERS:
        if converter.encoding.encode() == encoding:
            return converter.from_payload(payload, hint)
    raise TypeError(f"a payload is encoded as {encoding!r}; it is none of ours")


def _small(payload: Payload) -> Payload:
    size = payload.ByteSize()
    if size > MAX_PAYLOAD:
        raise PayloadTooLargeError(
            f"a payload of {size} bytes exceeds the {MAX_PAYLOAD} that an engine is "
            "given; content belongs in the store"
        )
    return payload
