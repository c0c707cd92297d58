"""A boto3 client for tests whose requests are weighed before they are sent.

DynamoDB refuses what is too large or badly formed; what answers in its place during
tests takes much of that. So each request is held against the page "Quotas in Amazon
DynamoDB" and the API reference, and one that DynamoDB would refuse fails its test.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config

TABLE = "agentloop-test"
REGION = "eu-central-1"
ITEM, TRANSACTION, BATCH, WIRE = 400 * 1024, 4 * 2**20, 16 * 2**20, 16 * 2**20
"""Bytes of an item, of a transaction, of a batch, and of a request (all at most)."""


def weighed_client(address: str) -> Any:
    """A client of a server, whose requests are weighed."""
    made = boto3.client(
        "dynamodb",
        region_name=REGION,
        endpoint_url=address,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=32,
        ),
    )
    made.meta.events.register("before-call.dynamodb", _weigh)
    return made


class TooHeavyError(AssertionError):
    """A request that DynamoDB would refuse, or answer with old rows."""


def _demand(held: object, problem: str) -> None:
    if not held:
        raise TooHeavyError(problem)


def size(value: dict[str, Any]) -> int:
    """Bytes of a value, by the page "DynamoDB item sizes and formats"."""
    ((kind, held),) = value.items()
    match kind:
        case "S":
            return len(held.encode())
        case "N":
            return len(held) // 2 + 2
        case "L":
            return 3 + sum(1 + size(each) for each in held)
    return 1


def item_size(item: dict[str, Any]) -> int:
    """Bytes of an item: of its names and of its values."""
    return sum(len(name) + size(value) for name, value in item.items())


def _weigh(model: Any, params: dict[str, Any], **_: Any) -> None:
    body = json.loads(params["body"])
    _demand(len(params["body"]) <= WIRE, f"{model.name} of {len(params['body'])} bytes")
    rule = _RULES.get(model.name)
    if rule is not None:
        rule(body)


def _transaction(body: dict[str, Any]) -> None:
    writes = [write for each in body["TransactItems"] for write in each.values()]
    weights = [_write(write) for write in writes]
    _demand(0 < len(writes) <= 100, f"a transaction of {len(writes)} writes")
    _demand(sum(weights) <= TRANSACTION, f"a transaction of {sum(weights)} bytes")
    _demand(body.get("ClientRequestToken"), "a transaction without a token")
    _once([write.get("Item", write.get("Key")) for write in writes])


def _write(write: dict[str, Any]) -> int:
    weight = item_size(write.get("Item", write.get("Key", {})))
    weight += item_size(write.get("ExpressionAttributeValues", {}))
    _demand(weight <= ITEM, f"an item of {weight} bytes")
    keys = write.get("Item", write.get("Key", {}))
    _used(write)
    _demand(len(keys["pk"]["S"].encode()) in range(1, 2049), "a long partition key")
    _demand(len(keys["sk"]["S"].encode()) in range(1, 1025), "a long sort key")
    return weight


def _batch_write(body: dict[str, Any]) -> None:
    (requests,) = body["RequestItems"].values()
    writes = [write for each in requests for write in each.values()]
    weights = [_write(write) for write in writes]
    _demand(0 < len(writes) <= 25, f"a batch of {len(writes)} writes")
    _demand(sum(weights) <= BATCH, f"a batch of {sum(weights)} bytes")
    _once([write.get("Item", write.get("Key")) for write in writes])


def _batch_get(body: dict[str, Any]) -> None:
    (asked,) = body["RequestItems"].values()
    _demand(0 < len(asked["Keys"]) <= 100, f"a batch of {len(asked['Keys'])} keys")
    _demand(asked.get("ConsistentRead") is True, "an eventually consistent batch")
    _once(asked["Keys"])


def _read(body: dict[str, Any]) -> None:
    _demand(body.get("ConsistentRead") is True, "an eventually consistent read")
    _used(body)
    bounds = body.get("ExpressionAttributeValues", {})
    texts = [bounds[name]["S"] for name in (":low", ":high") if name in bounds]
    _demand(all(texts) and texts == sorted(texts), f"the bounds {texts}")


def _once(keys: list[dict[str, Any]]) -> None:
    places = [(key["pk"]["S"], key["sk"]["S"]) for key in keys]
    _demand(len(set(places)) == len(places), f"a key twice among {places}")


def _used(request: dict[str, Any]) -> None:
    """Every name and value that comes along is used, and all that are used come."""
    texts = " ".join(request[kind] for kind in request if kind.endswith("Expression"))
    given = {*request.get("ExpressionAttributeNames", {})}
    given |= {*request.get("ExpressionAttributeValues", {})}
    used = set(re.findall(r"[#:]\w+", texts))
    _demand(used == given, f"used and given differ in {sorted(used ^ given)}")


_RULES: dict[str, Callable[[dict[str, Any]], None]] = {
    "TransactWriteItems": _transaction,
    "BatchWriteItem": _batch_write,
    "BatchGetItem": _batch_get,
    "UpdateItem": lambda body: _demand(_write(body) > 0, "an empty update"),
    "GetItem": _read,
    "Query": _read,
}
