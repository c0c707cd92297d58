"""The README is true: its snippets run, its diagram is the machine's table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.diagram import render

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"## From the command line\n\n```sh\n(.*?)```", TEXT, re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_python_snippets_run_as_they_stand(number: int, tmp_path: Path) -> None:
    """Each snippet runs in a fresh interpreter, tests under pytest."""
    file = tmp_path / f"test_snippet_{number}.py"
    file.write_text(SNIPPETS[number])
    runner = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    command = runner if "def test_" in SNIPPETS[number] else []
    done = subprocess.run(
        [sys.executable, *command, str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_snippet_prints_a_completed_run(tmp_path: Path) -> None:
    """What the first screen promises is what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[0]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("completed At 10 or at 14. ")


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(line: str, tmp_path: Path) -> None:
    """Each command of the README ends well."""
    program, *arguments = line.split()
    assert program == "agentloop"
    done = subprocess.run(
        [sys.executable, "-m", "agentloop", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_diagram_is_the_table_of_legal_moves() -> None:
    """The README's diagram is drawn from the table that the machine is tested by."""
    drawn = re.search(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)
    assert drawn is not None
    assert drawn[1].strip() == render().strip()


def block(name: str) -> str:
    """The shell block under a mark of the README."""
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_demo_runs_as_it_is_written(tmp_path: Path) -> None:
    """The last command of "Try it", after an install, from any folder.

    The commands before it make an environment and install this very package, which
    is where the tests run.
    """
    *_, command = block("demo").strip().split(" && ")
    assert command == ".venv/bin/agentloop demo"
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("Room 3 is booked for Friday at 10:00.", "JobFailed"):
        assert words in done.stdout


def test_the_curl_walk_walks(tmp_path: Path) -> None:
    """The server starts as written, and curl goes from create to messages."""
    script = re.search(r"`(\[\{\"calls\".*?\])`", TEXT)
    assert script is not None
    (tmp_path / "script.json").write_text(script[1])
    _, *arguments = block("serve").split()
    arguments[arguments.index("--port") + 1] = "0"
    command = [sys.executable, "-m", "agentloop", *arguments]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block("curl")],
                env={**os.environ, "URL": url, "NO_PROXY": "127.0.0.1"},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.splitlines() == ["Booked.", "4"]
        finally:
            server.terminate()
    assert server.returncode == 0
