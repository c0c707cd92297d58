"""What is made of the rows: a table, a JSON file and a plot."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from attrs import asdict
from rich.console import Console
from rich.table import Table

from benchmarks import published
from benchmarks.measure import Noise, Row

PACKAGES = ("agentloop", "attrs", "cattrs", "msgspec", "jsonschema-rs", "boto3")
Curves = Mapping[str, Mapping[int, float]]


def setting() -> dict[str, str]:
    """Where and with what was measured."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    root = Path(__file__).parent
    commit = subprocess.run(git, cwd=root, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def table(rows: Sequence[Row]) -> Table:
    """The rows as a table for the terminal."""
    found = Table(title="agentloop: figures", show_lines=False)
    for name in ("figure", "what"):
        found.add_column(name)
    for name in ("value", "baseline", "ratio", "target", "spread", "met"):
        found.add_column(name, justify="right")
    for row in rows:
        found.add_row(*cells(row))
    return found


def cells(row: Row) -> tuple[str, ...]:
    """One row as texts."""
    met = {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[row.met]
    unit = "x" if row.judges == "ratio" else row.unit
    return (
        row.figure,
        row.what,
        f"{number(row.value)} {row.unit}",
        "" if row.baseline is None else number(row.baseline),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.limit is None else f"<= {number(row.limit)} {unit}",
        "" if row.spread is None else f"{row.spread:.0%}",
        met,
    )


def number(value: float) -> str:
    """A number with about three digits that count."""
    if value == int(value):
        return f"{int(value)}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def write_json(path: Path, rows: Sequence[Row], noise: Noise, curves: Curves) -> None:
    """Everything that was found, for machines."""
    value = {
        "setting": setting(),
        "noise": {**asdict(noise), "told": noise.told},
        "rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows],
        "curves": curves,
    }
    path.write_text(json.dumps(value, indent=1))


def plot(path: Path, curves: Curves) -> None:
    """Cost per turn against the length of the run, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), sharey=True)
    ours = {"no checkpoint", "memory", "face", "ours over boto3"}
    for name, points in curves.items():
        side = right if "boto3" in name else left
        width = 2.5 if name in ours else 1.5
        side.plot(*_line(points), marker="o", linewidth=width, label=name)
    for side, peers in ((left, published.IN_PROCESS), (right, published.OVER_BOTO3)):
        for name, points in peers.items():
            label = f"{name} {published.VERSIONS[name]} (published)"
            side.plot(*_line(points), linestyle="--", alpha=0.6, label=label)
        side.set(xscale="log", yscale="log", xlabel="model calls in one run")
        side.grid(visible=True, which="both", alpha=0.2)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncol": 3}
        side.legend(fontsize=8, **below)
    left.set(title="in process", ylabel="CPU per turn, microseconds")
    right.set(title="over boto3 and HTTP on loopback")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _line(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(points), list(points.values())


def show(rows: Sequence[Row], noise: Noise, console: Console) -> None:
    """The table and what there is to say about it."""
    console.print(table(rows))
    console.print(", ".join(f"{name} {value}" for name, value in setting().items()))
    console.print(f"machine {noise.told}")
    judged = [row for row in rows if row.met is not None]
    console.print(
        f"{sum(bool(row.met) for row in judged)} of {len(judged)} targets met"
    )
