"""`BedrockBackend`: one Bedrock client, shared by all threads, as a backend.

Holds what is fixed for a host: the client or how to build one, the names of models,
what they can do and what is asked of them. Importing and constructing cost nothing;
boto3 is loaded when the first request goes out.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Final, TypeAlias

from agentloop.backends.bedrock.capabilities import (
    Capabilities,
    Override,
    capabilities_of,
)
from agentloop.backends.bedrock.client import (
    READ_TIMEOUT,
    ClientSettings,
    build_client,
    check_client,
    check_settings,
    client_warnings,
)
from agentloop.backends.bedrock.handover import Door
from agentloop.backends.bedrock.options import (
    FIELD_KINDS,
    Model,
    ModelOptions,
    first_problem,
)
from agentloop.backends.bedrock.sample import sample_body
from agentloop.backends.bedrock.session import BedrockSession
from agentloop.backends.common.doors import (
    check_capabilities,
    check_found,
    check_model_ids,
    check_options,
    check_texts,
)
from agentloop.core.catalog import RequestError
from agentloop.core.config import Config, ToolChoice
from agentloop.ports import MissingExtraError, SessionSetup

_LOG: Final = logging.getLogger("agentloop")

_NO_OPTIONS: Final = ModelOptions()

ModelIds: TypeAlias = Mapping[str, str] | Callable[[str], str] | None
"""From the model names of configs to Bedrock's ids; what is left out is an id."""


class BedrockBackend:
    """Inference by AWS Bedrock's Converse API.

    Without a client, one is built at the first request: one attempt per call,
    time-outs that fit inference, a connection per call in flight. A host's own client
    is used as it is, and never changed; what about it does not fit inference is
    logged once, when it is first used, and told by `warnings`.

    Args:
        client: a boto3 client of service `bedrock-runtime`.
        region: the region of a client of our own; None leaves it to boto3.
        endpoint_url: the endpoint of a client of our own.
        max_in_flight: how many calls there may be at once; the size of the pool.
        read_timeout: seconds a client of our own waits for Bedrock to go on.
        model_ids: Bedrock's id for the model name of a config, as a mapping or a
            function; without an entry the name is the id.
        capabilities: the host's own records, by model name.
        options: what requests carry beyond the config, by model name.
        hand_over: whether encoded bodies are handed to botocore as they are; see
            `agentloop.backends.bedrock.handover` for what that means.

    Raises:
        TypeError: no client of Bedrock's runtime, or a choice of the wrong kind.
        ValueError: a value that a choice cannot have.
    """

    def __init__(  # noqa: PLR0913 - the public face names every choice
        self,
        client: Any = None,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        max_in_flight: int = 32,
        read_timeout: float = READ_TIMEOUT,
        model_ids: ModelIds = None,
        capabilities: Override = None,
        options: Mapping[str, ModelOptions] | None = None,
        hand_over: bool = True,
    ) -> None:
        settings = ClientSettings(
            region=region,
            endpoint_url=endpoint_url,
            max_in_flight=max_in_flight,
            read_timeout=read_timeout,
        )
        check_settings(settings)
        if client is not None:
            check_client(client)
        check_model_ids(model_ids)
        check_capabilities(capabilities, Capabilities)
        check_options(options, ModelOptions, FIELD_KINDS)
        for model, chosen in (options or {}).items():
            check_texts(f"options[{model!r}].metadata", chosen.metadata)
        self._client = client
        self._settings = settings
        self._model_ids = model_ids
        self._capabilities = capabilities
        self._options = dict(options or {})
        self._hand_over = hand_over
        self._door: Door | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        region = self._settings.region
        where = "the host's client" if self._client is not None else region or "AWS"
        return f"<BedrockBackend over {where}>"

    @property
    def name(self) -> str:
        """How job records call this backend."""
        return "bedrock"

    def check(self, config: Config, tool_choice: ToolChoice) -> None:
        """Refuse what Bedrock would refuse for this config, before it costs.

        Raises:
            RequestError: `invalid-config`, naming the combination.
            MissingExtraError: boto3 is not installed and no client was given.
        """
        if self._client is None and self._door is None and not find_spec("boto3"):
            raise MissingExtraError("boto3", "bedrock")
        problem = first_problem(config, tool_choice, self._model(config.model))
        if problem is not None:
            raise RequestError("invalid-config", problem=problem)

    def session(self, setup: SessionSetup) -> BedrockSession:
        """A session for one drive of one run; encodes nothing yet."""
        return BedrockSession(setup, self._model(setup.config.model), self)

    def warnings(self) -> tuple[str, ...]:
        """What about the client does not fit, and why bodies are not handed over.

        Builds the client if there is none yet; sends nothing.
        """
        door = self.open()
        found = client_warnings(door.client, self._settings.max_in_flight)
        if door.reason is None:
            return found
        return (*found, f"bodies are not handed over to botocore: {door.reason}")

    # ------------------------------------------------------------ the client

    def open(self) -> Door:
        """The way to the client, which is built on first use."""
        if self._door is None:
            with self._lock:
                if self._door is None:
                    client = self._used_client()
                    self._door = Door(client, sample_body, hand_over=self._hand_over)
        return self._door

    def _used_client(self) -> Any:
        """One of our own, or the host's, with a word about what does not fit.

        Retries of a client's own multiply ours, and nothing else would show it.
        """
        if self._client is None:
            return build_client(self._settings)
        for warning in client_warnings(self._client, self._settings.max_in_flight):
            _LOG.warning("Bedrock: %s", warning)
        return self._client

    def opened(self) -> Door | None:
        """The way to the client if it has been used."""
        return self._door

    # ------------------------------------------------------------ models

    def _model(self, name: str) -> Model:
        id_ = self._model_id(name)
        return Model(
            id=id_,
            can=self._own_record(name) or capabilities_of(id_, name),
            options=self._options.get(name, _NO_OPTIONS),
        )

    def _model_id(self, name: str) -> str:
        match self._model_ids:
            case None:
                return name
            case Mapping():
                return self._model_ids.get(name, name)
            case _:
                return str(check_found("model_ids", self._model_ids(name), str))

    def _own_record(self, name: str) -> Capabilities | None:
        """The host's record of a model, which goes before ours."""
        own = self._capabilities
        if own is None or isinstance(own, Mapping):
            return None if own is None else own.get(name)
        found = own(name)
        if found is not None:
            check_found("capabilities", found, Capabilities)
        return found
