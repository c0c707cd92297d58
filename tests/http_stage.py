"""A served loop over boto3 and FakeBedrock, whose ids and instants a test decides."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from attrs import define, field

from agentloop.backends.bedrock import BedrockBackend
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fake_bedrock import FakeBedrock
from agentloop.testing.fixed import HandClock
from agentloop.tools.mcp import McpDirectory, McpOptions
from tests.http_sockets import world_on_a_socket
from tests.http_world import World

MODELS = {"anthropic.claude-opus-4.6": "anthropic.claude-opus-4-6-v1:0"}
"""What Bedrock calls the models that the contract's examples name."""


@define
class GivenIds:
    """Ids that a test lays out in advance; new ones when none are left."""

    given: deque[str] = field(factory=deque)

    def new(self) -> str:
        """The next id."""
        return self.given.popleft() if self.given else str(uuid4())


@define
class Stage:
    """A served loop over boto3, and what decides its ids and instants."""

    world: World
    bedrock: FakeBedrock
    clock: HandClock
    ids: GivenIds

    def run(
        self, conversation: str, *said: Any, payload: Any = "2 + 2?", **more: Any
    ) -> dict[str, Any]:
        """A run that ends, with what the model says in it."""
        self.bedrock.script(*said)
        ended: dict[str, Any] = self.world.run(conversation, payload, **more)
        self.bedrock.assert_done()
        return ended


@contextmanager
def stage_at(
    instant: str, folder: Path, face: str = "sync", workers: int = 2
) -> Iterator[Stage]:
    """A stage whose clock stands at an instant; without workers nobody drives."""
    clock = HandClock(datetime.fromisoformat(instant).astimezone(UTC))
    ids = GivenIds()
    store = SQLiteStore(str(folder / "stage.db"), clock=clock, synchronous="OFF")
    with FakeBedrock() as bedrock:
        choices: dict[str, Any] = {
            "store": store,
            "clock": clock,
            "ids": ids,
            "mcp": McpDirectory(McpOptions(allow_private=True)),
        }
        backend = BedrockBackend(bedrock.client(), model_ids=MODELS)
        with world_on_a_socket(face, backend, workers, **choices) as world:
            yield Stage(world, bedrock, clock, ids)
    store.close()
