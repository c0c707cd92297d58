"""T8: a durable run on SQLite: commits and rows counted, CPU measured."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from agentloop import AsyncAgentLoop
from agentloop.stores.sqlite import SQLiteStore
from benchmarks import bare
from benchmarks.crowd import crowd
from benchmarks.measure import Row, Tick, Work, interleaved
from benchmarks.workload import Bench, LeanModel, drive_to_end, free_slots

TURNS = 64
CROWD = 100
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"


class Counted:
    """Opens connections to one file and counts the statements they run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statements: Counter[str] = Counter()

    def __call__(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, check_same_thread=False)
        db.set_trace_callback(self._count)
        return db

    def _count(self, statement: str) -> None:
        self.statements[statement.split(maxsplit=1)[0].upper()] += 1

    @property
    def commits(self) -> int:
        """Transactions that were committed."""
        return self.statements["COMMIT"]


def counted_run(path: Path, turns: int) -> Counter[str]:
    """The statements that driving one run of `turns` turns takes, start excluded."""
    opener = Counted(path)
    with SQLiteStore(opener, synchronous="OFF") as store:
        desk = Bench(turns, store).desk(kept=True)
        opener.statements.clear()
        drive_to_end(desk)
        return Counter(opener.statements)


def _rows(path: Path) -> int:
    with sqlite3.connect(path) as db:
        tables = [name for (name,) in db.execute(_TABLES)]
        count = "SELECT count(*) FROM "
        return sum(db.execute(f"{count}{table}").fetchone()[0] for table in tables)


def stored(folder: Path, turns: int) -> tuple[int, int]:
    """Rows and bytes that one run of `turns` turns leaves."""
    path = folder / f"{turns}.db"
    counted_run(path, turns)
    with sqlite3.connect(path) as db:
        db.execute("VACUUM")
    return _rows(path), path.stat().st_size


def t8(tick: Tick) -> list[Row]:
    """Everything about durable runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tick("counting statements")
        return [
            *_cpu(folder, tick),
            *_counts(folder),
            _shared(folder, tick),
            *_linear(folder, tick),
        ]


def _counts(folder: Path) -> list[Row]:
    one = counted_run(folder / "one.db", 1)["COMMIT"]
    short = counted_run(folder / "short.db", 10)["COMMIT"]
    long = counted_run(folder / "long.db", 110)["COMMIT"]
    return [
        Row(
            figure="T8",
            what="commits per iteration with one tool",
            value=(long - short) / 100,
            unit="commits",
            baseline=2,
            limit=2,
        ),
        Row(
            figure="T8",
            what="commits of a run of one iteration, its end included",
            value=one,
            unit="commits",
            limit=2,
        ),
    ]


def _cpu(folder: Path, tick: Tick) -> list[Row]:
    stores = {
        sync: SQLiteStore(folder / f"{sync}.db", synchronous=sync)
        for sync in ("OFF", "FULL")
    }
    db = sqlite3.connect(folder / "bare.db")
    db.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
        "CREATE TABLE said (n INTEGER PRIMARY KEY, body TEXT)"
    )
    cases = {
        sync: partial(_driving, Bench(TURNS, store)) for sync, store in stores.items()
    }
    floor = {"bare loop": lambda: partial(bare.sqlite_loop, db, TURNS)}
    found = interleaved({**floor, **cases}, 9, tick)
    for store in stores.values():
        store.close()
    db.close()
    return [
        Row(
            figure="T8",
            what=f"CPU per one-tool iteration, synchronous={sync}",
            value=found[sync].median * 1e6 / TURNS,
            baseline=found["bare loop"].median * 1e6 / TURNS,
            limit=150.0 if sync == "OFF" else None,
            spread=found[sync].width,
        )
        for sync in stores
    ]


def _driving(bench: Bench) -> Work:
    return partial(drive_to_end, bench.desk(kept=True))


def _shared(folder: Path, tick: Tick) -> Row:
    """Concurrent runs commit together."""
    tick(f"{CROWD} concurrent runs on SQLite")
    opener = Counted(folder / "crowd.db")

    async def work() -> int:
        with SQLiteStore(opener, synchronous="FULL") as store:
            model = LeanModel(8)
            tools = {"rooms": [free_slots]}
            async with AsyncAgentLoop(model, store, tools) as loop:
                await crowd(loop, CROWD, 8, "lean")
        return opener.commits

    calls = CROWD * 16  # commits that the runs ask for while they are driven
    return Row(
        figure="T8",
        what=f"commits of {CROWD} concurrent runs x 8 against commits asked for",
        value=asyncio.run(work()),
        unit="commits",
        baseline=calls,
        limit=1.0,
        judges="ratio",
    )


def _linear(folder: Path, tick: Tick) -> list[Row]:
    tick("rows and bytes of long runs")
    short, long = stored(folder, 64), stored(folder, 512)
    return [
        Row(
            figure="T8",
            what=f"{unit} per iteration at N=512 against N=64",
            value=long[column] / 512,
            unit=unit,
            baseline=short[column] / 64,
            limit=1.1,
            judges="ratio",
        )
        for column, unit in enumerate(("rows", "bytes"))
    ]
