"""Configs as callers give them: checked when stored as defaults, and when a run starts.

The rules themselves are the core's; here they meet what the host registered.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from attrs import frozen

from agentloop.core.catalog import RequestError
from agentloop.core.config import (
    Config,
    Override,
    callers_tools,
    merge,
    validate,
    with_registered,
)
from agentloop.core.content import JsonObject
from agentloop.ports import MissingExtraError
from agentloop.runtime.prepare import Resources
from agentloop.schema import compile_schema
from agentloop.wire import WireError

_TOOL_FIELDS: Final = frozenset({"client_tools", "tools"})


@frozen
class Configs:
    """The configs of one loop's conversations and runs."""

    resources: Resources

    def check_defaults(self, defaults: Config) -> None:
        """Refuse the defaults of a conversation that no run could have.

        Raises:
            RequestError: `invalid-config`, with the path in the body.
        """
        with _inside("$.defaults"):
            config = self._offering(defaults)
            self._check(config)
            _check_callers_schemas(config)

    def effective(self, defaults: Config, override: Override | None) -> Config:
        """The config of a run (contract section 4).

        Raises:
            RequestError: `invalid-config`.
        """
        config = self._offering(merge(defaults, override))
        self._check(config)
        if override is not None and _TOOL_FIELDS & override.changes.keys():
            _check_callers_schemas(config)  # those of the defaults are checked
        self.resources.check_servers(config)
        return config

    def _check(self, config: Config) -> None:
        """The rules on configs, and that its schema is one at all."""
        validate(config, self.resources.servers)
        if config.output_format_schema is not None:
            _check_schema("$.output_format_schema", config.output_format_schema)

    def _offering(self, config: Config) -> Config:
        return with_registered(config, self.resources.servers)


@contextmanager
def _inside(path: str) -> Iterator[None]:
    """Have refusals of a config name their place in the body that it came in."""
    try:
        yield
    except RequestError as error:
        problem = str(error.facts.get("problem", ""))
        if error.slug != "invalid-config" or not problem.startswith("$"):
            raise
        raise RequestError("invalid-config", problem=path + problem[1:]) from None


def _check_schema(path: str, schema: JsonObject) -> None:
    try:
        compile_schema(schema)
    except WireError as error:
        problem = f"{path}{error.path[1:]}: {error.problem}"
        raise RequestError("invalid-config", problem=problem) from None


def _check_callers_schemas(config: Config) -> None:
    """That the tools which the caller answers have schemas that are some at all.

    Providers refuse others only when the run has begun. What an MCP server declares
    is mended by the backends, and a host that cannot compile schemas is let be.
    """
    with suppress(MissingExtraError):
        for path, spec in callers_tools(config):
            _check_schema(f"{path}.input_schema", spec.input_schema)
