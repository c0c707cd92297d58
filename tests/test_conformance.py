"""The store kit: shipped stores pass, broken ones are found, reports can be read."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentloop.ports import Clock, Store
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.conformance import BrokenPromiseError, StoreConformance
from agentloop.testing.conformance.judging import ALL, LEVELS
from agentloop.testing.conformance.places import imported
from tests import postgres_server
from tests.broken_stores import ZOO

Factory = Callable[..., Store]


def shared(kind: Callable[[Clock], Store]) -> Factory:
    """A factory whose stores are one, since memory does not outlive a store."""
    made: list[Store] = []

    def factory(clock: Clock) -> Store:
        if not made:
            made.append(kind(clock))
        return made[0]

    return factory


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Factory]:
    """A factory for each shipped store."""
    file = tmp_path / "store.db"

    def sqlite(clock: Clock) -> Store:
        return SQLiteStore(file, clock=clock, synchronous="OFF")

    kinds = {
        "memory": shared(MemoryStore),
        "sqlite": sqlite,
        "postgres": postgres_server.store,
    }
    if request.param == "postgres":
        postgres_server.emptied()
    return kinds[request.param]


def test_shipped_stores_conform(factory: Factory) -> None:
    """Every check passes on every shipped store; only processes need a place."""
    report = StoreConformance(factory).check()
    left = [each.check.name for each in report.outcomes if each.verdict != "kept"]
    assert left == ["processes share the work", "processes race for one version"]
    assert len(report.outcomes) == len(ALL) >= 60


@pytest.mark.parametrize(("kind", "name"), ZOO.items(), ids=lambda x: str(x))
def test_broken_stores_are_found(kind: Callable[[Clock], Store], name: str) -> None:
    """Each store of the zoo fails the check that is about its fault."""
    report = StoreConformance(shared(kind)).run()
    broken = {each.check.name: each for each in report.broken}
    assert name in broken
    assert broken[name].reason
    assert broken[name].check.claim in str(report)


def test_the_zoo_is_large_enough() -> None:
    """There are more than a dozen faults, and each level of checks finds some."""
    levels = {check.name: check.level for check in ALL}
    assert len(ZOO) >= 12
    assert {levels[name] for name in ZOO.values()} >= {"contract", "races", "failures"}


def test_a_store_that_forgets_is_found() -> None:
    """A store that is empty after a restart breaks the promises about restarts."""
    report = StoreConformance(lambda clock: MemoryStore(clock)).run()
    assert {each.check.level for each in report.broken} == {"restart"}
    with pytest.raises(BrokenPromiseError, match="everything outlives a restart"):
        StoreConformance(lambda clock: MemoryStore(clock)).check()


def test_levels_may_be_left_out() -> None:
    """A host may leave out a level, and the report names what was not run."""
    levels = tuple(level for level in LEVELS if level != "restart")
    report = StoreConformance(lambda: MemoryStore(), levels=levels).check()
    reasons = {e.reason for e in report.outcomes if e.verdict == "not run"}
    assert len(reasons) == 3
    assert "3 not run" not in report.summary()


def test_claims_are_one_sentence() -> None:
    """Every check has its own name and claims one thing in one sentence."""
    assert len({check.name for check in ALL}) == len(ALL)
    for check in ALL:
        assert check.claim.endswith(".")
        assert "\n" not in check.claim


HOST = """
from contextlib import closing
from sqlite3 import connect
from threading import Event, Lock
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore

def make(clock=None):
    return SQLiteStore("host.db", clock=clock, synchronous="OFF")

LOCK = Lock()

def forgetful():
    return MemoryStore()

class Local(SQLiteStore):
    "Its versions are compared by one process, whatever others do meanwhile."

    def finalize(self, lease, revision, final):
        with LOCK, closing(connect("host.db", isolation_level=None)) as db:
            in_time = db.execute(
                "SELECT base_version = version FROM runs JOIN conversations"
                " ON conversations.id = conversation_id WHERE runs.id = ?",
                (lease.run_id,),
            ).fetchone()
            if in_time == (1,):
                Event().wait(0.02)
                db.execute(
                    "UPDATE runs SET base_version = (SELECT version FROM conversations"
                    " WHERE id = conversation_id) WHERE id = ?",
                    (lease.run_id,),
                )
            return super().finalize(lease, revision, final)

def local(clock=None):
    return Local("host.db", clock=clock, synchronous="OFF")

number = 7
"""


def _agentloop(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "host.py").write_text(HOST)
    return subprocess.run(
        [sys.executable, "-m", "agentloop", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_command_examines_a_host(tmp_path: Path) -> None:
    """The command runs every check, with processes too, and counts them."""
    done = _agentloop(tmp_path, "conformance", "store", "host:make")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(ALL)} kept, 0 broken, 0 not run" in done.stdout


def test_the_command_reports_broken_promises(tmp_path: Path) -> None:
    """A store that breaks a promise ends the command with 1, and why."""
    done = _agentloop(tmp_path, "conformance", "store", "host:forgetful", "--quiet")
    assert done.returncode == 1
    assert "restart: everything outlives a restart" in done.stdout
    assert "What a call returned is there after" in done.stdout
    assert "the factory takes no clock" in done.stdout


def test_the_command_sees_between_processes(tmp_path: Path) -> None:
    """A store that is sound within one process only is found out by several."""
    done = _agentloop(tmp_path, "conformance", "store", "host:local", "--quiet")
    assert done.returncode == 1
    assert "races: processes race for one version" in done.stdout
    assert "races: runs race for one version" not in done.stdout


@pytest.mark.parametrize("place", ["host", "host:number", "host:no", "nowhere:make"])
def test_the_command_needs_a_factory(tmp_path: Path, place: str) -> None:
    """A place that names no factory ends the command with 2 and one line."""
    done = _agentloop(tmp_path, "conformance", "store", place)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_places_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory is found by its module and name."""
    assert imported("agentloop.stores.memory:MemoryStore") is MemoryStore


def test_migrate_brings_stores_forward(tmp_path: Path) -> None:
    """The command migrates Postgres once, files too, and refuses newer ones."""
    schema, address = "agentloop_cli", postgres_server.address()
    postgres = ("migrate", "--store", address, "--schema", schema)
    with postgres_server.pool().connection() as db:
        db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    assert "was at version 0" in _agentloop(tmp_path, *postgres).stdout
    assert "was at version 1" in _agentloop(tmp_path, *postgres).stdout
    with postgres_server.pool().connection() as db:
        db.execute(f"UPDATE {schema}.schema_version SET version = 99")
    refused = _agentloop(tmp_path, *postgres)
    assert refused.returncode == 2
    assert "version 99" in refused.stderr
    with postgres_server.pool().connection() as db:
        db.execute(f"DROP SCHEMA {schema} CASCADE")
    for told in ("made it", "is at this release's"):
        done = _agentloop(tmp_path, "migrate", "--store", "sqlite:///own.db")
        assert (done.returncode, told in done.stdout) == (0, True)
        assert "the file own.db" in done.stdout
        assert (tmp_path / "own.db").exists()


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/x", "refused"),
        ("postgresql://me:hunter2@[/x", "conninfo"),
        ("mysql://me/x", "unknown scheme"),
    ],
)
def test_migrate_says_what_is_wrong(tmp_path: Path, store: str, told: str) -> None:
    """A store that cannot be reached ends the command at once, telling no secret."""
    done = _agentloop(tmp_path, "migrate", "--store", store)
    assert (done.returncode, told in done.stderr) == (2, True)
    assert "hunter2" not in done.stderr + done.stdout
