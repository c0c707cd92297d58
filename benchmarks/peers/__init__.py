"""Other libraries on the same work, each in a virtual environment of its own.

`compare` makes what environments are missing, runs every adapter in its own, and
shows microseconds of CPU per iteration beside ours. An adapter that does not make
exactly N model calls and N - 1 tool calls is refused, not shown.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import published, turns
from benchmarks.measure import noise

LENGTHS = (1, 8, 32, 128, 512)
SAMPLES = {1: 9, 8: 9, 32: 5, 128: 3, 512: 1}
TIMEOUT = 300
PACKAGES = {
    "agno": ("agno", "openai"),
    "langchain": ("langchain",),
    "strands": ("strands-agents",),
    "pydantic-ai": ("pydantic-ai-slim",),
    "openai-agents": ("openai-agents",),
    "google-adk": ("google-adk",),
}
"""What is installed for each; the first is the one whose version is told."""

_ROOT = Path.home() / ".cache" / "agentloop-benchmarks"


def environment(name: str) -> Path:
    """The Python of a peer's environment, made when it is missing."""
    home = _ROOT / name
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        install = [python, "-m", "pip", "install", "--quiet", *PACKAGES[name]]
        subprocess.run(install, check=True)
        ready.touch()
    return python


def sample(name: str, length: int) -> dict[str, Any]:
    """What an adapter found: microseconds per iteration, or why there are none."""
    adapter = Path(__file__).parent / f"{name.replace('-', '_')}_peer.py"
    command = [environment(name), adapter, str(length), str(SAMPLES[length])]
    quiet = {
        **os.environ,
        "OTEL_SDK_DISABLED": "true",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "AGNO_TELEMETRY": "false",
        "LANGSMITH_TRACING": "false",
    }
    try:
        done = subprocess.run(
            command,
            env=quiet,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {TIMEOUT} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:120]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(names: list[str], console: Console) -> None:
    """Measure the peers and show them beside us and the bare loop."""
    if strange := set(names) - PACKAGES.keys():
        raise SystemExit(f"no adapter for {', '.join(strange)}")
    table = Table(title="CPU per iteration, microseconds")
    table.add_column("what")
    for length in LENGTHS:
        table.add_column(f"N={length}", justify="right")
    found: dict[str, dict[int, Any]] = {}
    with console.status("measuring") as status:
        for name, cells in _ours(status.update):
            table.add_row(name, *cells.values())
            found[name] = cells
        for name in names or PACKAGES:
            found[name] = {}
            for length in LENGTHS:
                status.update(f"{name}, N={length}")
                found[name][length] = sample(name, length)
            table.add_row(_titled(name, found[name]), *_cells(found[name]))
    console.print(table)
    console.print(f"machine {noise().told}")
    Path("benchmarks-peers.json").write_text(json.dumps(found, indent=1))


def _ours(tick: Any) -> Iterator[tuple[str, dict[int, str]]]:
    rows: dict[str, dict[int, str]] = {}
    for length in LENGTHS:
        cases = turns.in_process(length)
        found = turns.per_turn(cases, length, SAMPLES[length], tick)
        for name, spread in found.items():
            own = name if name == "bare loop" else f"agentloop, {name}"
            rows.setdefault(own, {})[length] = f"{spread.median:.1f}"
    yield from rows.items()


def _titled(name: str, found: dict[int, Any]) -> str:
    version = next((f["version"] for f in found.values() if "version" in f), None)
    return f"{name} {version or published.VERSIONS[name] + ' (published)'}"


def _cells(found: dict[int, Any]) -> list[str]:
    return [
        f"{each['us']:.0f}" if "us" in each else each["failed"]
        for each in found.values()
    ]
