"""One DynamoDB table through a host's boto3 client: reads, batches, transactions.

Every read is strongly consistent. What DynamoDB refuses because
somebody else is writing the same rows is tried again; its other errors become the
port's. This room knows no layout and no rule of the port.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from threading import Event
from typing import Any, Final, Literal, Protocol

from attrs import field, frozen

from agentloop.ports.store import StoreUnavailableError
from agentloop.ports.system import require
from agentloop.stores.dynamodb_values import (
    Key,
    Row,
    filled,
    plain_row,
    typed_key,
    typed_row,
)
from agentloop.stores.versions import SchemaVersionError

TRIES: Final = 10
"""How often a write is sent that meets others', or a batch that is cut short."""
BATCH_KEYS: Final = 100
BATCH_WRITES: Final = 25
BATCH_BYTES: Final = 3_500_000
"""Half of what would fit, as texts grow when they are escaped for the wire."""


class ConditionError(Exception):
    """What a write was bound to does not hold; nothing of it was written."""


class GoneError(Exception):
    """A row that another row points to is gone: the whole was deleted meanwhile."""


class _ConflictError(Exception):
    """Another write of the same rows was under way; nothing was written."""


class HostClient(Protocol):
    """What a host supplies: `boto3.client("dynamodb")`."""

    def get_item(self, **request: Any) -> dict[str, Any]:
        """Read a row."""
        ...

    def query(self, **request: Any) -> dict[str, Any]:
        """Read rows of a partition."""
        ...

    def batch_get_item(self, **request: Any) -> dict[str, Any]:
        """Read rows by their keys."""
        ...

    def batch_write_item(self, **request: Any) -> dict[str, Any]:
        """Write rows, each by itself."""
        ...

    def update_item(self, **request: Any) -> dict[str, Any]:
        """Change a row."""
        ...

    def transact_write_items(self, **request: Any) -> dict[str, Any]:
        """Write rows, all or none."""
        ...

    def create_table(self, **request: Any) -> dict[str, Any]:
        """Begin to make a table."""
        ...

    def describe_table(self, **request: Any) -> dict[str, Any]:
        """Tell of a table."""
        ...


@frozen
class Write:
    """One write of a transaction, and the condition it is bound to."""

    kind: Literal["Put", "Update", "Delete", "ConditionCheck"]
    key: Key
    row: Row = field(factory=dict)
    change: str | None = None
    condition: str | None = None
    values: Mapping[str, object] = field(factory=dict)


def put(key: Key, row: Row, condition: str | None = None, **values: object) -> Write:
    """Write a row, over one that is there."""
    return Write("Put", key, row=row, condition=condition, values=values)


def update(key: Key, change: str, condition: str, **values: object) -> Write:
    """Change some attributes of a row."""
    return Write("Update", key, change=change, condition=condition, values=values)


def delete(key: Key, condition: str | None = None, **values: object) -> Write:
    """Remove a row, if it is there."""
    return Write("Delete", key, condition=condition, values=values)


def check(key: Key, condition: str, **values: object) -> Write:
    """Bind the transaction to a row that it does not change."""
    return Write("ConditionCheck", key, condition=condition, values=values)


@frozen
class Span:
    """The rows of a partition whose sort keys lie between two, both included."""

    partition: str
    low: str
    high: str
    only: tuple[str, ...] = ()  # of their attributes; all when empty
    where: str | None = None
    values: Mapping[str, object] = field(factory=dict)
    newest_first: bool = False


def under(partition: str, prefix: str, *only: str) -> Span:
    """The rows of a partition whose sort keys, in printed ASCII, begin so."""
    return Span(partition, prefix or " ", prefix + "\x7f", only)


@frozen
class Table:
    """A table, and how to speak with it."""

    client: HostClient
    name: str

    # ------------------------------------------------------------ reading

    def get(self, key: Key) -> Row | None:
        """The row under a key."""
        request = {"Key": typed_key(key), "ConsistentRead": True}
        found = self.call("get_item", **request).get("Item")
        return None if found is None else plain_row(found)

    def get_all(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """The rows under keys, as far as they are there."""
        found: dict[Key, Row] = {}
        rest = iter(dict.fromkeys(keys))
        while part := [typed_key(key) for key in islice(rest, BATCH_KEYS)]:
            for row in self._batch(part):
                found[row["pk"], row["sk"]] = row
        return found

    def _batch(self, keys: list[dict[str, Any]]) -> Iterator[Row]:
        for attempt in range(TRIES):
            asked = {self.name: {"Keys": keys, "ConsistentRead": True}}
            answer = self._stubbornly("batch_get_item", RequestItems=asked)
            yield from map(plain_row, answer["Responses"].get(self.name, ()))
            left = answer.get("UnprocessedKeys", {}).get(self.name)
            if not left:
                return
            keys = left["Keys"]
            pause(attempt)
        raise StoreUnavailableError(f"DynamoDB left {len(keys)} rows unread")

    def query(self, span: Span) -> Iterator[Row]:
        """The rows of a span in order, a page of a megabyte at a time."""
        condition = "@pk = :pk AND @sk BETWEEN :low AND :high"
        given: dict[str, object] = {
            "pk": span.partition,
            "low": span.low,
            "high": span.high,
            **span.values,
        }
        request = filled(
            given,
            KeyConditionExpression=condition,
            FilterExpression=span.where,
            ProjectionExpression=", ".join(f"@{name}" for name in span.only) or None,
        )
        request["ConsistentRead"] = True
        request["ScanIndexForward"] = not span.newest_first
        while True:
            page = self.call("query", **request)
            yield from map(plain_row, page["Items"])
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    # ------------------------------------------------------------ writing

    def transact(self, writes: Sequence[Write]) -> None:
        """Do all writes or none; at most a hundred of four megabytes together.

        boto3 sends a token along by which DynamoDB knows its repeats.

        Raises:
            ConditionError: a condition does not hold.
            StoreUnavailableError: whether they were done is unknown.
        """
        items = [self._written(each) for each in writes]
        self._stubbornly("transact_write_items", TransactItems=items)

    def change(self, write: Write) -> Row:
        """Do one update; returns the row as it is then.

        Raises:
            ConditionError: its condition does not hold.
            StoreUnavailableError: whether it was done is unknown.
        """
        request = self._written(write)["Update"]
        answer = self._stubbornly("update_item", **request, ReturnValues="ALL_NEW")
        return plain_row(answer["Attributes"])

    def put_all(self, rows: Iterable[tuple[Key, Row]]) -> None:
        """Write rows, each by itself, over what is there."""
        requests = (
            {"PutRequest": {"Item": typed_key(key) | typed_row(row)}}
            for key, row in rows
        )
        for batch in _batches(requests):
            self._write_batch(batch)

    def delete_all(self, keys: Iterable[Key]) -> None:
        """Remove rows, each by itself, as far as they are there."""
        rest = (
            {"DeleteRequest": {"Key": typed_key(key)}} for key in dict.fromkeys(keys)
        )
        while batch := list(islice(rest, BATCH_WRITES)):
            self._write_batch(batch)

    def _write_batch(self, batch: list[dict[str, Any]]) -> None:
        for attempt in range(TRIES):
            answer = self._stubbornly(
                "batch_write_item", RequestItems={self.name: batch}
            )
            batch = answer.get("UnprocessedItems", {}).get(self.name, [])
            if not batch:
                return
            pause(attempt)
        raise StoreUnavailableError(f"DynamoDB left {len(batch)} rows unwritten")

    def _written(self, write: Write) -> dict[str, Any]:
        request = filled(
            write.values,
            UpdateExpression=write.change,
            ConditionExpression=write.condition,
        )
        request["TableName"] = self.name
        if write.kind == "Put":
            request["Item"] = typed_key(write.key) | typed_row(write.row)
        else:
            request["Key"] = typed_key(write.key)
        return {write.kind: request}

    # ------------------------------------------------------------ speaking

    def _stubbornly(self, operation: str, **request: Any) -> dict[str, Any]:
        for attempt in range(TRIES):
            try:
                return self._send(operation, **request)
            except _ConflictError:
                pause(attempt)
        raise StoreUnavailableError(
            f"DynamoDB table {self.name}: others write the same rows all the time"
        )

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        """Do an operation on this table.

        Raises:
            SchemaVersionError: there is no such table.
            StoreUnavailableError: DynamoDB did not answer, or refused to work.
            ValueError: what was given cannot be stored.
        """
        return self._stubbornly(operation, TableName=self.name, **request)

    def _send(self, operation: str, **request: Any) -> dict[str, Any]:
        errors = require("botocore.exceptions", "dynamodb")
        try:
            answer: dict[str, Any] = getattr(self.client, operation)(**request)
        except errors.ClientError as error:
            raise self._translated(error) from error
        except errors.ParamValidationError as error:
            raise ValueError(f"cannot be stored: {type(error).__name__}") from error
        except errors.BotoCoreError as error:
            told = f"DynamoDB table {self.name}: {error}"
            raise StoreUnavailableError(told) from error
        return answer

    def _translated(self, error: Any) -> Exception:
        """What an error of DynamoDB means; its requests' values stay out."""
        code: str = error.response.get("Error", {}).get("Code", "")
        match code:
            case "ConditionalCheckFailedException":
                return ConditionError()
            case "TransactionConflictException" | "TransactionInProgressException":
                return _ConflictError()
            case "TransactionCanceledException":
                return self._cancelled(error.response.get("CancellationReasons", ()))
            case "ResourceNotFoundException":
                return SchemaVersionError(
                    f"there is no DynamoDB table {self.name!r}; call store.migrate(),"
                    f" or run: agentloop migrate --store dynamodb://{self.name}"
                )
            case "ValidationException" | "SerializationException":
                return ValueError(f"cannot be stored: DynamoDB answered {code}")
        return StoreUnavailableError(f"DynamoDB table {self.name}: {error}")

    def _cancelled(self, reasons: Iterable[Mapping[str, Any]]) -> Exception:
        """What the reasons of a cancelled transaction come to.

        A condition that failed is decided by reading again, whatever else stood in
        the way. Throttling is what boto3 has retried already.
        """
        codes = {str(reason.get("Code", "None")) for reason in reasons} - {"None"}
        told = ", ".join(sorted(codes))
        if "ConditionalCheckFailed" in codes:
            return ConditionError()
        if codes & {"ValidationError", "ItemCollectionSizeLimitExceeded"}:
            return ValueError(f"cannot be stored: DynamoDB cancelled it ({told})")
        if codes == {"TransactionConflict"}:
            return _ConflictError()
        return StoreUnavailableError(f"DynamoDB table {self.name} cancelled: {told}")


def _batches(requests: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Requests in batches of a number and of a size that DynamoDB takes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for request in requests:
        item = request["PutRequest"]["Item"]
        weight = sum(len(value.get("S", "")) for value in item.values())
        if batch and (len(batch) == BATCH_WRITES or size + weight > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += weight
    if batch:
        yield batch


def pause(attempt: int) -> None:
    """Wait a little, longer each time, and not as long as others do."""
    Event().wait(0.002 * 2**attempt * (0.5 + secrets.randbelow(1_000) / 1_000))
