"""Promises about threads and processes that do things at one moment."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from agentloop.ports import ClaimRequest, EventRow, VersionMovedError
from agentloop.testing.conformance.judging import demand, promise, same
from agentloop.testing.conformance.places import imported
from agentloop.testing.conformance.subject import (
    LONG,
    Driven,
    MovableClock,
    Subject,
    at_once,
    change,
)

THREADS = 8
PROCESSES = 4
ROUNDS = 8


def _answers(found: list[Any], what: str) -> None:
    errors = [each for each in found if isinstance(each, Exception)]
    demand(not errors, f"{what} raised {errors[:1]!r}")


@promise("races")
def threads_insert_one_run(s: Subject) -> None:
    """Threads with one key make one row, and one of them made it."""
    where = s.conversation().id
    news = [s.new_run(where, client_op_id="key") for _ in range(THREADS)]
    found = at_once([partial(s.store.insert_run, new) for new in news])
    _answers(found, "insert_run")
    same([created for _, created in found].count(True), 1, "how many made the row")
    same(len({row.id for row, _ in found}), 1, "how many rows were returned")
    same(len(s.store.list_runs(s.ours, where)), 1, "how many rows there are")


@promise("races")
def threads_claim_one_run(s: Subject) -> None:
    """Of many claims of one run at once, one succeeds."""
    for _ in range(3):
        run = s.run()
        claims: list[Callable[[], Any]] = [partial(s.claim, run.id), s.claim] * (
            THREADS // 2
        )
        found = at_once(claims)
        _answers(found, "claim")
        same(sum(each is not None for each in found), 1, "claims that succeeded")


@promise("races")
def threads_share_the_work(s: Subject) -> None:
    """Threads that claim whatever is due take every run exactly once."""
    runs = [s.run().id for _ in range(20)]

    def work() -> list[str]:
        return [claim.run.id for claim in iter(s.claim, None)]

    found = at_once([work] * THREADS)
    _answers(found, "claim")
    same(sorted(run for mine in found for run in mine), sorted(runs), "claimed runs")


@promise("races")
def runs_race_for_one_version(s: Subject) -> None:
    """However many runs end at once on one version, one wins whole."""
    where = s.conversation().id
    driven = [s.drive(s.run(where)) for _ in range(THREADS)]
    driven = [s.say(each, f'"{each.run_id}"', '"end"') for each in driven]
    found = at_once([partial(s.end, each) for each in driven])
    _answers(found, "finalize")
    winners = [row.id for row in found if row.status == "completed"]
    same(len(winners), 1, "how many won")
    page = s.store.messages(s.ours, where)
    shown = page and (page.version, [row.body for row in page.rows])
    same(shown, (2, [f'"{winners[0]}"', '"end"']), "the conversation")


@promise("races")
def ends_race_with_inserts(s: Subject) -> None:
    """While a version moves, an insert gets a row at it or the news of it."""
    for _ in range(3):
        where = s.conversation().id
        driven = s.say(s.drive(s.run(where)), '"a"')
        news = [s.new_run(where) for _ in range(4)]
        inserts = [partial(s.store.insert_run, new) for new in news]
        there, *told = at_once([partial(_ended_among, s, driven), *inserts])
        _answers([there], "finalize")
        for each in told:
            moved = isinstance(each, VersionMovedError)
            demand(moved or not isinstance(each, Exception), f"an insert raised {each}")
        late = {row.id for row in s.store.list_runs(s.ours, where)} - there
        same(late, set(), "runs that came at a version after it had moved")


def _ended_among(s: Subject, driven: Driven) -> set[str]:
    """End a run; the runs that are there as soon as its version has moved."""
    s.end(driven)
    return {row.id for row in s.store.list_runs(s.ours, driven.conversation_id)}


@promise("races")
def threads_commit_one_revision(s: Subject) -> None:
    """Of different commits after one revision, one is stored."""
    for _ in range(3):
        driven = s.drive()
        changes = [
            change(messages=(f'"{n}"',), events=(EventRow(n + 1, "{}"),))
            for n in range(THREADS)
        ]
        at_once([partial(s.commit, driven, each) for each in changes])
        same(len(s.store.run_messages(driven.run_id)), 1, "messages of one revision")
        same(len(s.store.events(s.ours, driven.run_id)), 1, "events of one revision")
        s.store.release(driven.lease)
        same(s.drive(driven.claim.run).revision, 1, "the revision")


@promise("races")
def readers_see_whole_runs(s: Subject) -> None:
    """Version and rows agree in every page that is read while runs end."""
    where, pages = s.conversation().id, []

    def read() -> None:
        for _ in range(200):
            pages.append(s.store.messages(s.ours, where))
            if pages[-1] is None or pages[-1].version == 15:
                return

    def write() -> None:
        for _ in range(5):
            s.finished(where, '"a"', '"b"', '"c"')

    _answers(at_once([read, write]), "reading and writing")
    for page in pages:
        numbers = [row.sequence_no for row in page.rows] if page else []
        same(numbers, list(range(1, page.version + 1) if page else []), "a page")
        demand(page and page.version % 3 == 0, f"a page at version {page}")


_CHILD = (
    "import sys; from agentloop.testing.conformance.races import child;"
    " child(*sys.argv[1:])"
)


@promise("races", needs="place")
def processes_share_the_work(s: Subject) -> None:
    """Processes that claim whatever is due take every run exactly once."""
    runs = [s.run().id for _ in range(20)]
    children = [_process(_CHILD, str(s.place), s.driver) for _ in range(PROCESSES)]
    found = at_once([partial(each.communicate, timeout=120) for each in children])
    _answers(found, "a process")
    errors = [error for _, error in found if error]
    demand(not errors, f"a process failed: {errors[:1]!r}")
    claimed = [line for output, _ in found for line in output.split()]
    same(sorted(claimed), sorted(runs), "the claimed runs")


def _process(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - this interpreter, on the host's own factory
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@promise("races", needs="place")
def processes_race_for_one_version(s: Subject) -> None:
    """Of runs that processes end at once on one version, one wins."""
    shelves = [s.conversation().id for _ in range(ROUNDS)]
    runs = [[s.run(where).id for where in shelves] for _ in range(PROCESSES)]
    racers = [_process(_RACER, str(s.place), s.name, *mine) for mine in runs]
    found = []
    try:
        for _ in range(ROUNDS):
            ready = [each.stdout.readline() for each in racers if each.stdout]
            demand(ready == ["ready\n"] * PROCESSES, f"processes answered {ready}")
            for each in racers:
                print("go", file=each.stdin, flush=True)
            found.append([e.stdout.readline().strip() for e in racers if e.stdout])
    finally:
        told = [each.communicate(timeout=60)[1] for each in racers]
    demand(not any(told), f"a process failed: {told}")
    for where, ends in zip(shelves, found, strict=True):
        same(ends.count("completed"), 1, f"how many of {ends} won")
        page = s.store.messages(s.ours, where)
        same(page and (page.version, len(page.rows)), (1, 1), "version and messages")


_RACER = (
    "import sys; from agentloop.testing.conformance.races import racer;"
    " racer(*sys.argv[1:])"
)


def racer(place: str, name: str, *run_ids: str) -> None:
    """End runs in a process of its own, each when the parent says so."""
    subject = Subject(imported(place), MovableClock(), place, name=name)
    for run_id in run_ids:
        claim = subject.claim(run_id)
        if claim is None:
            raise AssertionError(f"the run {run_id} is due, and claim answered None")
        driven = subject.say(Driven(claim, claim.revision), f'"{run_id}"')
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        sys.stdout.write(f"{subject.end(driven).status}\n")
        sys.stdout.flush()
    subject.close()


def child(place: str, driver: str) -> None:
    """Claim in a process of its own until nothing is due, printing each run's id."""
    subject = Subject(imported(place), MovableClock(), place)
    request = ClaimRequest(driver=driver, lease_seconds=LONG)
    for claim in iter(lambda: subject.store.claim(request), None):
        sys.stdout.write(f"{claim.run.id}\n")  # the parent reads it
    subject.close()
