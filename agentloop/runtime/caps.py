"""Caps on what a caller hands over as Python values, before it is looked into.

Over HTTP a body is measured as it comes in. Values have no bytes yet, so what they
would take as JSON is bounded from below: each text by its length, each other thing by
one. No body is refused here that HTTP would have taken. The walk stops at the cap, so
that small values which unfold into huge ones cost no more than others.
"""

from collections.abc import Mapping
from typing import Any

from agentloop.core.catalog import RequestError
from agentloop.wire import Limits

_HOLDERS = (dict, list, tuple, Mapping)  # asking the abstract class is dear


def check_size(value: Any, limits: Limits) -> None:
    """That a value is within the caps.

    Raises:
        RequestError: `payload-too-large`, for its size or its depth.
    """
    size, todo = 0, [(value, 0)]
    while todo:
        node, depth = todo.pop()
        if isinstance(node, str):
            size += 2 + len(node)
        elif isinstance(node, _HOLDERS):
            if depth >= limits.max_depth:
                raise _too_large(f"nested deeper than {limits.max_depth} levels")
            size += 1 + len(node)
            if size <= limits.max_bytes:  # a longer one is refused unread
                todo += [(part, depth + 1) for part in _inside(node)]
        else:
            size += 1
        if size > limits.max_bytes:
            raise _too_large(f"a body of over {limits.max_bytes} bytes")


def _inside(node: Any) -> Any:
    return (*node.keys(), *node.values()) if isinstance(node, Mapping) else node


def _too_large(problem: str) -> RequestError:
    return RequestError("payload-too-large", problem=problem)
