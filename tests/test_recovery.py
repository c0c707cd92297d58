"""Real processes killed with SIGKILL over one SQLite file, and over one Postgres."""

from pathlib import Path

import pytest

from tests.kills import Place, hunt, postgres


@pytest.mark.parametrize(
    ("kills", "server"), [(50, False), (20, True)], ids=["sqlite", "postgres"]
)
def test_kills_lose_and_double_nothing(
    tmp_path: Path, kills: int, server: bool
) -> None:
    """Every run completes, every message is there once, no tool runs twice."""
    place = Place(str(tmp_path), postgres() if server else "")
    tally = hunt(kills, 3 * kills // 5, 2, place)
    assert tally.kills >= kills
    assert tally.statuses == {"completed": tally.runs}
    assert tally.doubled == 0
    assert tally.broken == []
