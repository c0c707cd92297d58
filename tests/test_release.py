"""The figures of a release: each comes from a run, and the README has no others."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from agentloop.testing.simulate import __main__ as simulate
from agentloop.testing.simulate import origin, simulation
from tests import engine_kills, release
from tests.protocol_mutants import MUTANTS

README = f"# A title\n\n{release.FIRST}old\n{release.LAST}\nAnd an end.\n"


@pytest.fixture
def run(tmp_path: Path) -> "Run":
    """The command over a README and a file of figures of its own."""
    return Run(tmp_path)


class Run:
    def __init__(self, folder: Path) -> None:
        self.readme, self.figures = folder / "README.md", folder / "release.json"
        self.readme.write_text(README)

    def __call__(self, *arguments: str) -> int:
        files = ("--readme", str(self.readme), "--figures", str(self.figures))
        return release.main([*arguments, *files])

    def rows(self) -> list[str]:
        text = self.readme.read_text()
        assert text.startswith("# A title\n\n")
        assert text.endswith(f"{release.LAST}\nAnd an end.\n")
        return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_the_table_is_written_from_the_recorded_figures() -> None:
    """The README's table says what the file of figures says, and nothing else."""
    known = json.loads((release.ROOT / "tests" / "release.json").read_text())
    text = (release.ROOT / "README.md").read_text()
    assert release.written(text, release.render(known)) == text


def test_recorded_figures_are_sound() -> None:
    """No recorded run doubled a call or let a mutant live; a seed that broke is mended.

    It passes on today's code, whatever the recorded commit made of it.
    """
    known = json.loads((release.ROOT / "tests" / "release.json").read_text())
    for seed in known["simulations"].pop("broken"):
        assert simulation.simulate(int(seed)).steps > 0
    assert [
        key for key, figures in known.items() if not release.is_sound(figures)
    ] == []
    assert known["mutants"]["killers"].keys() == MUTANTS.keys()


def test_a_part_writes_its_row(run: Run) -> None:
    """Simulations are told with their number, seeds and faults."""
    assert run("simulations", "--seeds", "30", "--start", "5", "--jobs", "1") == 0
    (row,) = run.rows()
    figures = json.loads(run.figures.read_text())["simulations"]
    faults = sum(n for kinds in figures["faults"].values() for n in kinds.values())
    steps = f"{figures['steps']:,}".replace(",", " ")
    assert row.startswith(f"| simulations | 30 seeds (5 to 34), {steps} steps, ")
    assert f" {faults:,} faults: ".replace(",", " ") in row
    assert f"| no violation | commit {figures['commit']}, " in row


def test_parts_that_were_not_run_keep_their_rows(run: Run) -> None:
    """Another part adds a row; the same part made again replaces its own only."""
    run("simulations", "--seeds", "3", "--jobs", "1")
    (first,) = run.rows()
    assert run("sqlite", "--kills", "2", "--runs", "1") == 0
    kept, kills = run.rows()
    assert kept == first
    assert re.match(r"\| SIGKILL on SQLite \| \d+ worker processes killed ", kills)
    assert "| 0 executions doubled, nothing lost |" in kills
    run("simulations", "--seeds", "4", "--jobs", "1")
    again, same = run.rows()
    assert again.startswith("| simulations | 4 seeds (0 to 3)")
    assert same == kills


def test_kills_on_an_engine_are_a_part(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every shipped engine has one; it tells the counts, and how long runs paused."""
    assert {"dbos", "temporal"} <= release.PARTS.keys() & engine_kills.ENGINES.keys()
    monkeypatch.setitem(engine_kills.ENGINES, "temporal", engine_kills.ENGINES["queue"])
    assert run("temporal", "--temporal-kills", "2") == 0
    (row,) = run.rows()
    assert re.match(
        r"\| SIGKILL on Temporal \| [2-9] workers killed over \d+ runs, ", row
    )
    assert "| 0 executions doubled, nothing lost | commit " in row
    figures = json.loads(run.figures.read_text())["temporal"]
    assert not release.is_sound(figures | {"lost": 1})
    assert "1 lost" in release.of_engine_kills(figures | {"lost": 1})[1]


def test_a_survivor_is_told(run: Run) -> None:
    """A breakage that no seed found fails the command and stands in the table."""
    assert run("mutants", "--mutant-seeds", "1", "--jobs", "1") == 1
    (row,) = run.rows()
    total = f" of {len(MUTANTS)} hand-made breakages of the protocol found, "
    assert total in row
    assert "not found: " in row
    assert "base_version_is_not_compared" in row


def test_a_hunt_made_elsewhere_is_taken_over(run: Run, tmp_path: Path) -> None:
    """What a hunt wrote becomes the row, with its own commit and machine."""
    run("simulations", "--seeds", "3", "--jobs", "1")
    figures = json.loads(run.figures.read_text())["simulations"]
    figures |= {"commit": "abc1234", "simulations": 1_000_000, "start": 0}
    file = tmp_path / "hunt.json"
    file.write_text(json.dumps(figures))
    assert run("simulations", "--simulated", str(file)) == 0
    (row,) = run.rows()
    assert row.startswith("| simulations | 1 000 000 seeds (0 to 999 999), ")
    assert "commit abc1234, " in row


def test_a_hunt_in_pieces_is_one(tmp_path: Path) -> None:
    """Pieces of one range, in whatever order, come to what the whole range does."""
    ranges = {"whole": (2, 9), "end": (6, 5), "begin": (2, 4), "other": (12, 1)}
    found = {}
    for name, (start, seeds) in ranges.items():
        file = tmp_path / name
        numbers = ["--start", str(start), "--seeds", str(seeds), "--jobs", "1"]
        simulate.main([*numbers, "--json", str(file)])
        found[name] = json.loads(file.read_text())
    joined = release.joined([found["end"], found["begin"]])
    assert {**joined, "seconds": 0} == {**found["whole"], "seconds": 0}
    with pytest.raises(ValueError, match="seeds from 12"):
        release.joined([found["begin"], found["end"], found["other"]])


def test_a_violation_is_told_and_fails(run: Run, tmp_path: Path) -> None:
    """A seed that broke an invariant cannot be overlooked."""
    run("simulations", "--seeds", "3", "--jobs", "1")
    figures = json.loads(run.figures.read_text())["simulations"]
    file = tmp_path / "hunt.json"
    file.write_text(json.dumps(figures | {"broken": {"7": "invariant 9: twice"}}))
    assert run("simulations", "--simulated", str(file)) == 1
    (row,) = run.rows()
    assert "| 1 violations |" in row


def test_figures_name_the_commit_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the working copy's, marked when a module was changed, or unknown."""
    module = tmp_path / "agentloop" / "testing" / "simulate" / "origin.py"
    monkeypatch.setattr(origin, "__file__", str(module))
    assert origin.origin()["commit"] == "unknown"
    module.parent.mkdir(parents=True)
    module.write_text("a = 1\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = origin.origin()["commit"]
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (tmp_path / "README.md").write_text("no module\n")
    assert origin.origin()["commit"] == clean
    module.write_text("a = 2\n")
    assert origin.origin()["commit"] == f"{clean}-dirty"


def test_a_readme_without_marks_is_refused() -> None:
    """A table is never written where none was."""
    with pytest.raises(ValueError, match="no table between <!-- trust -->"):
        release.written("# A title\n", "table\n")


def test_an_unknown_part_is_refused(run: Run) -> None:
    """A part that does not exist is not passed over in silence."""
    with pytest.raises(SystemExit):
        run("simulation")
