"""From flags to parts: stores, backends, configs and tools named on a command line.

Whatever cannot be opened ends the command with one line that names the offending
value and the way out, and exit code 2.
"""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from agentloop.core.catalog import RequestError
from agentloop.core.run import Scope
from agentloop.ports import (
    Backend,
    EngineUnavailableError,
    MissingExtraError,
    Store,
    StoreUnavailableError,
)
from agentloop.runtime.callers import as_scope
from agentloop.stores.versions import SchemaVersionError
from agentloop.wire import Limits, WireError, parse

Loop = TypeVar("Loop")
STORE_HELP = (
    "Where to keep things: a file, sqlite:///FILE, postgresql://...,"
    " dynamodb://TABLE, or memory:"
)
IN_MEMORY = frozenset({"memory", "memory:"})
"""The `--store` values that keep nothing."""
BACKEND_HELP = "Which model: bedrock, cortex[:CONNECTION], or script:FILE"
BACKENDS_HELP = "A JSON file with a default backend and one for each data plane."
_PLAIN = (
    RequestError,
    StoreUnavailableError,
    EngineUnavailableError,
    MissingExtraError,
    SchemaVersionError,
)


def stop(problem: str) -> NoReturn:
    """End the command with exit code 2 and one line on standard error."""
    typer.echo(f"agentloop: {problem}", err=True)
    raise typer.Exit(2)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can mend into one line."""
    try:
        yield
    except _PLAIN as error:
        stop(str(error))


@contextmanager
def open_store(url: str, *, must_exist: bool = False) -> Iterator[Store]:
    """The store a `--store` value names, closed at the end.

    A file is made when it is missing, but not by who only reads (`must_exist`).
    """
    if url in IN_MEMORY:
        from agentloop.stores.memory import MemoryStore

        yield MemoryStore()
        return
    scheme, mark, rest = url.partition("://")
    if mark and scheme in {"postgresql", "postgres"}:
        from agentloop.stores.postgres import PostgresStore

        with PostgresStore(url) as postgres:
            yield postgres
        return
    if mark and scheme == "dynamodb":
        from agentloop.stores.dynamodb_address import opened_at

        with ExitStack() as stack:
            try:
                dynamodb = stack.enter_context(opened_at(url))
            except ValueError as error:
                stop(str(error))
            yield dynamodb
        return
    if mark and scheme != "sqlite":
        stop(
            f"--store {shown(url)!r} has an unknown scheme; "
            "use a file, sqlite:///FILE or postgresql://"
        )
    with _sqlite(rest.removeprefix("/") if mark else url, must_exist) as file:
        yield file


@contextmanager
def _sqlite(name: str, must_exist: bool) -> Iterator[Store]:
    """The store in a file."""
    from agentloop.stores.sqlite import SQLiteStore

    path = Path(name).expanduser()
    if not name or path.is_dir():
        stop(f"--store {name!r} names no file; give one such as agentloop.db")
    if not path.resolve().parent.is_dir():
        stop(f"--store {name!r}: there is no folder {path.parent}")
    if must_exist and not path.exists():
        stop(f"--store {name!r}: there is no such file; `agentloop run` makes one")
    try:
        store = SQLiteStore(path)
    except (ValueError, SchemaVersionError) as error:
        stop(f"--store {name!r}: {error}")
    with store:
        yield store


def file_of(url: str) -> Path | None:
    """The file that a `--store` value names, there or not; None for other stores."""
    scheme, mark, rest = url.partition("://")
    if not url or url in IN_MEMORY or (mark and scheme != "sqlite"):
        return None
    return Path(rest.removeprefix("/") if mark else url).expanduser()


def shown(url: str) -> str:
    """A store's value as it may be printed: without the password in a URL."""
    return re.sub(r"(?<=://)[^/@]*@", "", url).partition("?")[0]


def scope(company: int, user: int) -> Scope:
    """The scope of `--company` and `--user`."""
    try:
        return as_scope(Scope(company, user))
    except ValueError as error:
        stop(str(error))


def make_loop(
    face: Callable[..., Loop],
    backend: Backend | None,
    store: Store,
    tools: dict[str, Any],
    **parts: Any,
) -> Loop:
    """A loop of what the flags name; what it refuses to be made of ends the command."""
    try:
        return face(backend, store, tools, **parts)
    except (TypeError, ValueError) as error:
        stop(str(error))


def read_json(file: str) -> Any:
    """The JSON value in a file."""
    try:
        data = Path(file).expanduser().read_bytes()
    except OSError as error:
        stop(f"cannot read {file}: {error.strerror}")
    try:
        return parse(data, Limits())[0]
    except WireError as error:
        stop(f"{file}: {error}")


def load_tools(specs: list[str]) -> dict[str, Any]:
    """Host tools from `ALIAS=module:name` values; the name is a list of tools."""
    found: dict[str, Any] = {}
    for spec in specs:
        alias, equals, place = spec.partition("=")
        module, colon, name = place.partition(":")
        if not (alias and equals and module and colon and name):
            stop(f"--tools {spec!r} is not of the form ALIAS=module:name")
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            found[alias] = getattr(importlib.import_module(module), name)
        except Exception as error:  # the module's own code runs
            kind = type(error).__name__
            stop(f"--tools {spec!r}: {kind}: {' '.join(str(error).split())}")
    return found


def as_json(value: Any) -> str:
    """JSON for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False)
