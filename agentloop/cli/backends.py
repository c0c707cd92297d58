"""From a `--backend` value to a backend, and from a file to several.

A value is `bedrock`, `cortex`, `cortex:CONNECTION` (a name of Snowflake's
connections.toml, or @FILE with the connector's options as JSON), or `script:FILE`.
A file (`--backends`) says the same for several data planes:

    {"default": {"kind": "bedrock", "region": "us-east-1"},
     "planes": {"0b8a…": {"kind": "cortex", "connection": "prod", "transport": "sql"}}}
"""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from agentloop.cli import parts
from agentloop.ports import Backend, require
from agentloop.wire import WireError

_KEYS: Mapping[str, frozenset[str]] = {
    "bedrock": frozenset({"kind", "region", "endpoint_url"}),
    "cortex": frozenset({"kind", "connection", "transport", "emulate_tools"}),
    "script": frozenset({"kind", "file"}),
}


@frozen
class Chosen:
    """The default backend, if any, and those of data planes."""

    default: Backend | None
    planes: Mapping[str, Backend]


def choose(
    name: str, endpoint_url: str | None, region: str | None, file: str | None
) -> Chosen:
    """What `--backend`, or else `--backends`, asks for."""
    if file is None:
        return Chosen(make_backend(name, endpoint_url, region), {})
    value = parts.read_json(file)
    if not isinstance(value, dict) or value.keys() - {"default", "planes"}:
        parts.stop(f"{file}: needs an object with 'default' and 'planes' only")
    planes = value.get("planes", {})
    if not isinstance(planes, dict):
        parts.stop(f"{file}: $.planes must be an object, by data_plane_id")
    default = value.get("default")
    return Chosen(
        None if default is None else _from_spec(f"{file}: $.default", default),
        {
            plane: _from_spec(f"{file}: $.planes.{plane}", spec)
            for plane, spec in planes.items()
        },
    )


def make_backend(name: str, endpoint_url: str | None, region: str | None) -> Backend:
    """The backend that one value names."""
    kind, _, rest = name.partition(":")
    if kind == "bedrock" and not rest:
        return _bedrock(region, endpoint_url)
    if kind == "cortex":
        return _cortex({"connection": rest or None})
    if kind != "script" or not rest:
        parts.stop(
            f"--backend {name!r} is unknown; "
            "use bedrock, cortex, cortex:CONNECTION, or script:FILE"
        )
    return _script(rest)


def _from_spec(place: str, spec: Any) -> Backend:
    if isinstance(spec, str):
        return make_backend(spec, None, None)
    kind = str(spec.get("kind")) if isinstance(spec, dict) else ""
    if kind not in _KEYS:
        known = ", ".join(_KEYS)
        parts.stop(f"{place}.kind must be one of {known}, not {kind!r}")
    if strange := sorted(spec.keys() - _KEYS[kind]):
        parts.stop(f"{place}.{strange[0]}: unknown key")
    match kind:
        case "bedrock":
            return _bedrock(spec.get("region"), spec.get("endpoint_url"))
        case "cortex":
            return _cortex(spec)
        case _:
            return _script(spec.get("file", ""))


def _bedrock(region: str | None, endpoint_url: str | None) -> Backend:
    from agentloop.backends.bedrock import BedrockBackend

    return BedrockBackend(endpoint_url=endpoint_url, region=region)


def _cortex(spec: Mapping[str, Any]) -> Backend:
    from agentloop.backends.cortex import CortexBackend

    try:
        return CortexBackend(
            connect(spec.get("connection")),
            transport=spec.get("transport", "rest"),
            emulate_tools=bool(spec.get("emulate_tools", False)),
        )
    except ValueError as error:
        parts.stop(str(error))


def connect(connection: str | Mapping[str, Any] | None) -> Any:
    """A Snowflake connection by name, by a file of options, or by default."""
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
        return connector.connect(**options)
    except connector.Error as error:
        parts.stop(f"Snowflake refused the connection: {error.raw_msg or error}")


def _script(file: str) -> Backend:
    from agentloop.testing.scripted import ScriptedBackend, script_from

    try:
        return ScriptedBackend(*script_from(parts.read_json(file)))
    except WireError as error:
        parts.stop(f"{file}: {error}")
