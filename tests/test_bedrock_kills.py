"""SIGKILL with nothing made up but the model: boto3, HTTP, SQLite, processes."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentloop import Scope
from agentloop.testing.fake_bedrock import FakeBedrock, calls, says, stalls
from tests.bedrock_mortal import make_loop

SCOPE = Scope(1, 407)
ROOT = Path(__file__).parent.parent


@contextmanager
def worker(url: str, folder: Path) -> Iterator[None]:
    """A worker process that is killed when the block is left."""
    command = [sys.executable, "-m", "tests.bedrock_mortal", url, str(folder)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield
        finally:
            process.kill()  # SIGKILL


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_a_run_outlives_workers_killed_in_inference_and_in_a_tool(
    tmp_path: Path,
) -> None:
    """The inference is made again, the payment is not, and the model is told so."""
    pay = calls(("bank-pay", {"amount": 5}), ids=["tooluse_pay"])
    ledger = tmp_path / "ledger"
    with FakeBedrock(stalls(60), pay, says("I do not know.")) as bedrock:
        loop = make_loop(bedrock.url, tmp_path)
        defaults = {"model": "anthropic.claude-opus-4.6"}
        made = loop.create_conversation(defaults=defaults, scope=SCOPE)
        run = loop.start_run(made.id, "Pay 5.", scope=SCOPE)
        with worker(bedrock.url, tmp_path):
            until(lambda: len(bedrock.requests) == 1)
        with worker(bedrock.url, tmp_path):
            until(ledger.exists)
        with worker(bedrock.url, tmp_path):
            until(lambda: loop.get_run(run.id, scope=SCOPE).terminal)
        ended = loop.get_run(run.id, scope=SCOPE)
        first, second = loop.list_jobs(run.id, scope=SCOPE)
        loop.close()
        asked = bedrock.requests
    assert (ended.status, ended.final_text) == ("completed", "I do not know.")
    assert ledger.read_text() == "5\n"
    assert bedrock.refused == []
    assert asked[0].raw == asked[1].raw  # byte for byte the same, under one job
    [told] = asked[2].body["messages"][-1]["content"]
    assert told["toolResult"]["toolUseId"] == "tooluse_pay"
    assert "unknown" in str(told["toolResult"]["content"])
    assert [attempt.outcome for attempt in first.attempts] == ["lost", "ok"]
    assert first.request_verified
    assert second.request_verified
    assert ended.usage is not None
    assert ended.usage.attempts_without_usage == 1
