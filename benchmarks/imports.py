"""T4 and T9: what it costs to import the core, and what it takes to install it."""

import atexit
import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from tempfile import TemporaryDirectory

from benchmarks.measure import Row, Spread, Tick

HEAVY = ("boto3", "botocore", "snowflake", "mcp", "starlette", "typer", "msgspec")
_CORE = "from agentloop import AgentLoop, Scope"
_CASES = {
    "the core": _CORE,
    "`import agentloop` alone": "import agentloop",
    "core and async face": "from agentloop import AgentLoop, AsyncAgentLoop",
    "attrs and cattrs": "import attrs, cattrs",
    "boto3": "import boto3",
}
_PROBE = """
import os, sys, time
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
before, modules, begin = rss(), set(sys.modules), time.process_time()
{statement}
cpu, added = time.process_time() - begin, sorted(set(sys.modules) - modules)
grown = rss() - before
import json
print(json.dumps([cpu * 1000, added, grown]))
"""


@cache
def _environment() -> dict[str, str]:
    """One where compiled modules are kept, as in every installation."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    kept = {**os.environ, "PYTHONPYCACHEPREFIX": folder.name}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


def probe(statement: str) -> tuple[float, list[str], float]:
    """CPU milliseconds, modules and megabytes that a statement adds to bare Python."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(statement=statement)],
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    cpu, modules, rss = json.loads(done.stdout)
    return cpu, modules, rss


def t4(tick: Tick) -> list[Row]:
    """Import of the core."""
    found: dict[str, list[tuple[float, list[str], float]]] = {c: [] for c in _CASES}
    for turn in range(10):
        for name, statement in _CASES.items():
            tick(f"importing {name}, sample {turn} of 9")
            sample = probe(statement)
            if turn:  # the first one compiles
                found[name].append(sample)
    cpu = {name: Spread(tuple(s[0] for s in some)) for name, some in found.items()}
    modules = {name: some[-1][1] for name, some in found.items()}
    rss = {
        name: Spread(tuple(s[2] for s in some)).median for name, some in found.items()
    }
    floor = "attrs and cattrs"
    rows = [
        Row(
            figure="T4",
            what=f"import of {name}",
            value=cpu[name].median,
            unit="ms",
            baseline=cpu[floor].median,
            limit=120.0 if name == "the core" else None,
            spread=cpu[name].width,
        )
        for name in _CASES
        if name != floor
    ]
    core = modules["the core"]
    loaded = [name for name in HEAVY if name in core]
    return [
        *rows,
        Row(
            figure="T4",
            what="modules that the core adds",
            value=len(core),
            unit="modules",
            baseline=len(modules[floor]),
            limit=170,
        ),
        Row(
            figure="T4",
            what="memory that the core adds",
            value=rss["the core"],
            unit="MB",
            baseline=rss[floor],
            limit=20.0,
        ),
        Row(
            figure="T4",
            what="heavy packages loaded before use",
            value=len(loaded),
            unit="packages",
            limit=0,
            note=", ".join(loaded),
        ),
    ]


# ---------------------------------------------------------------- T9


_NAME = re.compile(r"[A-Za-z0-9._-]+")


def distributions(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """What installing a distribution brings along, by the metadata at hand."""
    found: set[str] = set()
    todo = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for requirement in _requirements(current[0]):
            inner = _NAME.match(requirement)
            if inner is None or not _applies(requirement, current[1]):
                continue
            bracket = re.match(r"[^\[;]*\[([^\]]*)\]", requirement)
            wanted = bracket[1].replace(" ", "").split(",") if bracket else []
            found.add(inner[0].lower().replace("_", "-"))
            todo.append((inner[0], frozenset(wanted)))
    return found - {name}


def _requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def _applies(requirement: str, extras: frozenset[str]) -> bool:
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    if marker is None:
        return True
    return any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def t9(tick: Tick) -> list[Row]:
    """Distributions that an installation adds, agentloop itself not counted."""
    tick("reading metadata")
    core = distributions("agentloop")
    bedrock = distributions("agentloop", frozenset({"bedrock"}))
    boto3 = {"boto3", *distributions("boto3")}
    return [
        Row(
            figure="T9",
            what="distributions: core",
            value=len(core),
            unit="dists",
            limit=3,
            note=", ".join(sorted(core)),
        ),
        Row(
            figure="T9",
            what="distributions: with Bedrock and tool schemas",
            value=len(bedrock),
            unit="dists",
            baseline=len(boto3),
            limit=12,
            note=", ".join(sorted(bedrock)),
        ),
    ]
