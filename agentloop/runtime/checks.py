"""What a host hands over, looked at before it is used.

A wrong part would otherwise raise from deep inside of the first run. Each check
says which argument was wrong, what was given and what to give instead. What was
given is told by its type, and by its text only where that cannot hold a secret.
Nothing here is called while a run is driven.
"""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from agentloop.ports import Backend, ServerDirectory, Store, ToolServer

_CALLS: Mapping[type, tuple[str, ...]] = {
    Backend: ("check", "session"),
    Store: tuple(
        name
        for name, found in vars(Store).items()
        if callable(found) and not name.startswith("_")
    ),
    ToolServer: ("declared", "discover", "call", "close"),
    ServerDirectory: ("open",),
}
_SHORT = 16
"""Characters of a text that may be shown; keys and tokens are longer."""
_MARKS = frozenset(":@?=;")
"""What an address or a setting is told by, which may hold a password."""
_LARGEST = 2**53
"""Whole numbers beyond this are no exact JSON numbers, and no store counts so far."""


def given(value: object) -> str:
    """What a value is, in words that show no secret."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str) and len(value) <= _SHORT and not set(value) & _MARKS:
        return repr(value)
    return f"a {type(value).__name__}"


def lacks(value: object, port: type) -> tuple[str, ...]:
    """The calls of a port that a value does not have."""
    names = _CALLS[port]
    if isinstance(value, type):
        return names
    return tuple(name for name in names if not callable(getattr(value, name, None)))


def check_backend(argument: str, value: object) -> None:
    """That a value can be a backend.

    Raises:
        TypeError: it cannot; says what to wrap it in.
    """
    missing = lacks(value, Backend)
    if not missing and hasattr(value, "name"):
        return
    raise TypeError(
        f"{argument} must be a backend, not {given(value)}; "
        + _way_to_a_backend(value, missing or ("name",))
    )


def _way_to_a_backend(value: object, missing: tuple[str, ...]) -> str:
    if isinstance(value, type):
        return f"make one: {value.__name__}(...)"
    if hasattr(value, "converse"):
        return "wrap it: BedrockBackend(client)"
    if hasattr(value, "cursor"):
        return "wrap it: CortexBackend(connection)"
    if isinstance(value, Mapping):
        return "backends by data_plane_id are given as backends="
    shipped = "BedrockBackend(client), CortexBackend(connection) or ScriptedBackend"
    if isinstance(value, str):
        return f"a model is named in a conversation's defaults; give {shipped}"
    return f"it lacks {', '.join(missing)}; give {shipped}, or what has these"


def check_store(value: object) -> None:
    """That a value can be a store.

    Raises:
        TypeError: it cannot; says what to wrap it in.
    """
    missing = lacks(value, Store)
    if not missing and hasattr(value, "blocking"):
        return
    raise TypeError(
        f"store= must be a store, not {given(value)}; "
        + _way_to_a_store(value, missing or ("blocking",))
    )


def _way_to_a_store(value: object, missing: tuple[str, ...]) -> str:
    if isinstance(value, type):
        return f"make one: {value.__name__}(...)"
    if isinstance(value, str) and value.startswith(("postgres://", "postgresql://")):
        return "wrap it: PostgresStore(dsn)"
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return "wrap it: SQLiteStore(path)"
    if hasattr(value, "cursor"):
        return "give SQLiteStore(path) or PostgresStore(dsn), which connect themselves"
    return f"it lacks {', '.join(missing[:4])}; give MemoryStore() or SQLiteStore(path)"


def check_server(argument: str, value: object) -> None:
    """That a value can be a server of tools.

    Raises:
        TypeError: it cannot; says what may be given.
    """
    missing = lacks(value, ToolServer)
    if not missing:
        return
    if callable(value) and not isinstance(value, type):
        raise TypeError(f"{argument} is one function; put it in a list: [function]")
    raise TypeError(
        f"{argument} must be a list of functions or a tool server, not "
        f"{given(value)}; a server has declared, discover, call and close"
    )


def check_directory(value: object) -> None:
    """That a value can reach servers by URL.

    Raises:
        TypeError: it cannot; says where servers are named.
    """
    if lacks(value, ServerDirectory):
        raise TypeError(
            "mcp= must have open(server, scope), as McpDirectory does, not "
            f"{given(value)}; "
            "the servers themselves are named in a config's mcp_servers"
        )


def check_calls(argument: str, value: object, *names: str) -> None:
    """That a value has some methods; without names, that it can be called.

    Raises:
        TypeError: it has not.
    """
    if not names and not callable(value):
        raise TypeError(f"{argument} must be a function, not {given(value)}")
    missing = [n for n in names if not callable(getattr(value, n, None))]
    if missing or (names and isinstance(value, type)):
        wanted = ", ".join(f"{name}()" for name in names)
        raise TypeError(f"{argument} must have {wanted}; {given(value)} is none")


def check_names(
    what: str, given_names: Mapping[str, Any], known: tuple[str, ...]
) -> None:
    """That every name is known.

    Raises:
        TypeError: one is not; says which one may have been meant.
    """
    strange = [name for name in given_names if name not in known]
    if not strange:
        return
    from difflib import get_close_matches  # here, since nearly nobody mistypes

    near = get_close_matches(strange[0], known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise TypeError(f"there is no {what} named {strange[0]!r}; {hint}")


def whole(name: str, value: object, least: int, most: int = _LARGEST) -> int:
    """A whole number within bounds.

    Raises:
        TypeError: it is none.
        ValueError: it is outside of them.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {given(value)}")
    if value < least or value > most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise ValueError(f"{name} must be {bound}, not {value}")
    return value


def number(name: str, value: object) -> float:
    """A number of seconds; it may be infinite.

    Raises:
        TypeError: it is none.
        ValueError: it is not a number.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {given(value)}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number of seconds, not nan")
    return float(value)


def span(name: str, value: object) -> float:
    """A finite number of seconds above zero.

    Raises:
        TypeError: it is no number.
        ValueError: it is another one.
    """
    found = number(name, value)
    if math.isinf(found):
        raise ValueError(f"{name} must be a number of seconds, not {value}")
    if found <= 0:
        raise ValueError(f"{name} must be above 0 seconds, not {value}")
    return found
