"""Clients that fail as told, before or after DynamoDB did what was asked."""

from collections.abc import Callable
from typing import Any, Literal

from attrs import define, field, frozen
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

Side = Literal["before", "after"]
READS = frozenset({"get_item", "query", "batch_get_item", "describe_table"})


@define
class Faulty:
    """A client of which one request fails, on one side of its being done."""

    client: Any
    number: int = 0
    side: Side = "before"
    sent: list[str] = field(factory=list)

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            self.sent.append(operation)
            hit = len(self.sent) == self.number
            if hit and self.side == "before":
                raise EndpointConnectionError(endpoint_url="http://dynamodb")
            answer = getattr(self.client, operation)(**request)
            if hit:
                raise ReadTimeoutError(endpoint_url="http://dynamodb")
            return answer

        return call


@define
class Meddled:
    """A client before whose first transaction somebody else does something."""

    client: Any
    deed: Callable[[], object] | None

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        deed = self.deed
        if operation == "transact_write_items" and deed:
            self.deed = None
            deed()
        found: Callable[..., Any] = getattr(self.client, operation)
        return found


@frozen
class Raw:
    """What urllib3 would have read."""

    body: bytes

    def stream(self) -> list[bytes]:
        return [self.body]


def answered(status: int, body: str) -> AWSResponse:
    """An answer that boto3 takes for one from the network."""
    return AWSResponse("http://dynamodb", status, {}, Raw(body.encode()))
