"""From a `--backend` value to a backend, and from a file to several.

A value is `bedrock`, `cortex`, `cortex:CONNECTION` (a name of Snowflake's
connections.toml, or @FILE with the connector's options as JSON), or `script:FILE`.
A file (`--backends`) says the same for several data planes:

    {"default": {"kind": "bedrock", "region": "us-east-1"},
     "planes": {"0b8a…": {"kind": "cortex", "connection": "prod", "transport": "sql"}}}

An entry for Cortex may have the choices of `CortexBackend` that are data:
`transport`, `emulate_tools`, `model_ids`, `options` and `capabilities` by model, and
`max_in_flight`, which is else as many as there are runs at once. Its connections are
ours: another is opened when a login has run out.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from attrs import frozen

from agentloop.cli import parts
from agentloop.ports import Backend, require
from agentloop.wire import WireError, load

_CORTEX_TYPES: Mapping[str, type] = {
    "transport": str,
    "emulate_tools": bool,
    "model_ids": dict,
    "options": dict,
    "capabilities": dict,
    "max_in_flight": int,
}
_TYPES: Mapping[type, str] = {
    str: "a text",
    bool: "true or false",
    dict: "an object",
    int: "a whole number",
}
_KEYS: Mapping[str, frozenset[str]] = {
    "bedrock": frozenset({"kind", "region", "endpoint_url"}),
    "cortex": frozenset({"kind", "connection", *_CORTEX_TYPES}),
    "script": frozenset({"kind", "file"}),
}


@frozen
class Chosen:
    """The default backend, if any, and those of data planes."""

    default: Backend | None
    planes: Mapping[str, Backend]


@contextmanager
def choose(
    name: str,
    endpoint_url: str | None,
    region: str | None,
    file: str | None,
    at_once: int = 1,
) -> Iterator[Chosen]:
    """What `--backend`, or else `--backends`, asks for; connections end with it.

    `at_once` is how many inferences there may be at once.
    """
    with ExitStack() as stack:
        if file is None:
            maker = Maker(stack, endpoint_url, region, at_once)
            yield Chosen(maker.make(name), {})
        else:
            yield _from_file(file, Maker(stack, None, None, at_once))


def _from_file(file: str, maker: "Maker") -> Chosen:
    value = parts.read_json(file)
    if not isinstance(value, dict) or value.keys() - {"default", "planes"}:
        parts.stop(f"{file}: needs an object with 'default' and 'planes' only")
    planes = value.get("planes", {})
    if not isinstance(planes, dict):
        parts.stop(f"{file}: $.planes must be an object, by data_plane_id")
    default = value.get("default")
    return Chosen(
        None if default is None else maker.read(f"{file}: $.default", default),
        {
            plane: maker.read(f"{file}: $.planes.{plane}", spec)
            for plane, spec in planes.items()
        },
    )


@frozen
class Maker:
    """Makes backends; what they need to be closed is closed by `stack`."""

    stack: ExitStack
    endpoint_url: str | None
    region: str | None
    at_once: int

    def make(self, name: str) -> Backend:
        """The backend that one value names."""
        kind, _, rest = name.partition(":")
        if kind == "bedrock" and not rest:
            return self._bedrock(self.region, self.endpoint_url)
        if kind == "cortex":
            return self._cortex(f"--backend {name}", {"connection": rest or None})
        if kind != "script" or not rest:
            parts.stop(
                f"--backend {name!r} is unknown; "
                "use bedrock, cortex, cortex:CONNECTION, or script:FILE"
            )
        return _script(rest)

    def read(self, place: str, spec: Any) -> Backend:
        """The backend that an entry of a file describes."""
        if isinstance(spec, str):
            return self.make(spec)
        kind = str(spec.get("kind")) if isinstance(spec, dict) else ""
        if kind not in _KEYS:
            parts.stop(f"{place}.kind must be one of {', '.join(_KEYS)}, not {kind!r}")
        if strange := sorted(spec.keys() - _KEYS[kind]):
            parts.stop(f"{place}.{strange[0]}: unknown key")
        match kind:
            case "bedrock":
                return self._bedrock(spec.get("region"), spec.get("endpoint_url"))
            case "cortex":
                return self._cortex(place, spec)
            case _:
                return _script(spec.get("file", ""))

    def _bedrock(self, region: str | None, endpoint_url: str | None) -> Backend:
        from agentloop.backends.bedrock import BedrockBackend

        try:
            return BedrockBackend(
                endpoint_url=endpoint_url, region=region, max_in_flight=self.at_once
            )
        except (TypeError, ValueError) as error:
            parts.stop(str(error))

    def _cortex(self, place: str, spec: Mapping[str, Any]) -> Backend:
        from agentloop.backends.cortex import CortexBackend

        def opened() -> Any:
            """A connection of ours, which is closed with all others at the end."""
            connection = login(spec.get("connection"))
            self.stack.callback(connection.close)
            return connection

        choices = {"max_in_flight": self.at_once, **_choices(place, spec)}
        connection = connect(spec.get("connection"))
        self.stack.callback(connection.close)
        try:
            return CortexBackend(connection, reconnect=opened, **choices)
        except (TypeError, ValueError) as error:
            parts.stop(f"{place}: {error}")


def _choices(place: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says of a Cortex backend beside its connection."""
    from agentloop.backends.cortex import Capabilities, ModelOptions

    found = {key: spec[key] for key in _CORTEX_TYPES if key in spec}
    for key, value in found.items():
        if type(value) is not _CORTEX_TYPES[key]:
            wanted = _TYPES[_CORTEX_TYPES[key]]
            parts.stop(f"{place}.{key}: must be {wanted}, not {value!r:.60}")
    for key, kind in {"options": ModelOptions, "capabilities": Capabilities}.items():
        if key in found:
            found[key] = {
                model: _values(f"{place}.{key}.{model}", value, kind)
                for model, value in found[key].items()
            }
    return found


def _values(place: str, value: Any, kind: type[Any]) -> Any:
    """An options value of the backend's, from its fields in JSON."""
    try:
        return load(value, kind, place)
    except WireError as error:
        parts.stop(f"{error.path}: {error.problem}")


def connect(connection: str | Mapping[str, Any] | None) -> Any:
    """A Snowflake connection by name, by a file of options, or by default."""
    connector = require("snowflake.connector", "cortex")
    try:
        return login(connection)
    except connector.Error as error:
        parts.stop(f"Snowflake refused the connection: {error.raw_msg or error}")


def login(connection: str | Mapping[str, Any] | None) -> Any:
    """As `connect`, for who has more to say of a refusal.

    Raises:
        snowflake.connector.Error: the login was refused, or nobody was there.
    """
    connector = require("snowflake.connector", "cortex")
    options: Mapping[str, Any]
    if isinstance(connection, str) and connection.startswith("@"):
        options = parts.read_json(connection[1:])
    elif isinstance(connection, str):
        options = {"connection_name": connection}
    else:
        options = connection or {}
    if not isinstance(options, Mapping):
        parts.stop(f"{connection}: needs an object with the connector's options")
    try:
        with warnings.catch_warnings():
            # The connector's own news, of which whoever types a command has no use.
            warnings.simplefilter("ignore", FutureWarning)
            return connector.connect(**options)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        # 4.x looks at options late, and stumbles over what is of another type.
        why = f"{type(error).__name__}: {error}"
        parts.stop(f"{connection}: the connector takes no such options ({why})")


def _script(file: str) -> Backend:
    from agentloop.testing.scripted import ScriptedBackend, script_from

    try:
        return ScriptedBackend(*script_from(parts.read_json(file)))
    except WireError as error:
        parts.stop(f"{file}: {error}")
