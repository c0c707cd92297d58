"""Shell snippets against a served loop, as a reader of the README runs them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from agentloop import AgentLoop
from agentloop.http import fixed_tokens
from agentloop.http.serve import Serving, served
from agentloop.testing.scripted import Scripted, ScriptedBackend
from tests.http_world import TOKENS


@contextmanager
def serving(*script: Scripted) -> Iterator[str]:
    """The URL of a server on loopback whose model follows a script to its end."""
    backend = ScriptedBackend(*script)
    with (
        AgentLoop(backend) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0)) as url,
    ):
        yield url
    backend.assert_done()


def run_shell(snippet: str, url: str, token: str = "alice") -> str:
    """What a snippet prints; `BASE` and `TOKEN` name the server and the caller.

    The snippet stops at its first failing command, and then the test does.
    """
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", snippet],
        env={**os.environ, "BASE": url, "TOKEN": token, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
