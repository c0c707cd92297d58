"""Configs as callers give them: checked when stored as defaults, and when a run starts.

The rules themselves are the core's; here they meet what the host registered.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Final

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
from agentloop.ports import ConversationRow, MissingExtraError
from agentloop.runtime.lately import KINDS
from agentloop.runtime.prepare import Resources
from agentloop.runtime.present import body_from
from agentloop.schema import compile_schema
from agentloop.wire import WireError, dump, to_json

_TOOL_FIELDS: Final = frozenset({"client_tools", "tools"})


class Configs:
    """The configs of one loop's conversations and runs."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        # Most runs override nothing, and their conversations are of a few kinds.
        self._plain = lru_cache(KINDS)(self._of_defaults)

    def of_run(
        self, row: ConversationRow, override: Override | None
    ) -> tuple[Config, str]:
        """The config of a run (contract section 4), and its stored text.

        Raises:
            RequestError: `invalid-config`.
        """
        if override is None:
            config, text = self._plain(row.body)
        else:
            config = self._effective(body_from(row.body).defaults, override)
            text = dump(to_json(config))
        self.resources.check_servers(config)
        return config, text

    def _of_defaults(self, body: str) -> tuple[Config, str]:
        config = self._effective(body_from(body).defaults, None)
        return config, dump(to_json(config))

    def check_defaults(self, defaults: Config) -> None:
        """Refuse the defaults of a conversation that no run could have.

        Raises:
            RequestError: `invalid-config`, with the path in the body.
        """
        with _inside("$.defaults"):
            config = self._offering(defaults)
            self._check(config)
            _check_callers_schemas(config)

    def _effective(self, defaults: Config, override: Override | None) -> Config:
        config = self._offering(merge(defaults, override))
        self._check(config)
        if override is not None and _TOOL_FIELDS & override.changes.keys():
            _check_callers_schemas(config)  # those of the defaults are checked
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
