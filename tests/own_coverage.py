"""Each room of the core is covered in full, branches too, by its own tests alone.

Run as `python -m tests.own_coverage [room ...]`; it fails under 100 %. Coverage
that comes from elsewhere hides rules that nobody meant to test.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = Path("agentloop/core")
ROOMS = sorted(
    path.stem for path in (ROOT / CORE).glob("*.py") if path.stem != "__init__"
)


def measure(room: str, folder: str) -> list[str]:
    """What is wrong with one room's coverage; empty when nothing is."""
    file = CORE / f"{room}.py"
    base = [sys.executable, "-m", "coverage"]
    environment = {**os.environ, "COVERAGE_FILE": str(Path(folder) / room)}
    tests = f"-m pytest -q -p no:cacheprovider tests/test_{room}.py"
    steps = (
        ["run", "--branch", "--source=agentloop.core", *tests.split()],
        ["report", f"--include={file}", "--fail-under=100"],
    )
    for arguments in steps:
        done = subprocess.run(
            [*base, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return [f"{file}: {arguments[0]} failed", done.stdout, done.stderr]
    return []


def main(rooms: list[str]) -> int:
    """Measure every room, report what falls short, and count it."""
    strange = sorted(set(rooms) - set(ROOMS))
    if strange:
        print(f"no such rooms: {', '.join(strange)} (there are {', '.join(ROOMS)})")
        return 2
    short = 0
    with tempfile.TemporaryDirectory() as folder:
        for room in rooms or ROOMS:
            problems = measure(room, folder)
            short += bool(problems)
            print(f"{room}: {'short' if problems else '100 %'}", *problems, sep="\n")
    return min(short, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
