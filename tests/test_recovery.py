"""Real processes killed with SIGKILL over one SQLite file."""

from pathlib import Path

from tests.kills import hunt


def test_fifty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """Every run completes, every message is there once, no tool runs twice."""
    tally = hunt(kills=50, runs=30, seed=2, folder=str(tmp_path))
    assert tally.kills >= 50
    assert tally.statuses == {"completed": tally.runs}
    assert tally.doubled == 0
    assert tally.broken == []
