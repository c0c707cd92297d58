"""Promises about threads and processes that do things at one moment."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from agentloop.ports import ClaimRequest, VersionMovedError
from agentloop.testing.conformance.judging import demand, promise, same
from agentloop.testing.conformance.places import imported
from agentloop.testing.conformance.subject import (
    LONG,
    MovableClock,
    Subject,
    at_once,
)

THREADS = 8
PROCESSES = 4


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
        for each in at_once([partial(s.end, driven), *inserts])[1:]:
            told = isinstance(each, VersionMovedError)
            demand(told or each[0].base_version == 0, f"an insert answered {each!r}")


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
    children = [
        subprocess.Popen(  # noqa: S603 - this interpreter, on the host's own factory
            [sys.executable, "-c", _CHILD, str(s.place), s.driver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    found = at_once([partial(each.communicate, timeout=120) for each in children])
    _answers(found, "a process")
    errors = [error for _, error in found if error]
    demand(not errors, f"a process failed: {errors[:1]!r}")
    claimed = [line for output, _ in found for line in output.split()]
    same(sorted(claimed), sorted(runs), "the claimed runs")


def child(place: str, driver: str) -> None:
    """Claim in a process of its own until nothing is due, printing each run's id."""
    subject = Subject(imported(place), MovableClock(), place)
    request = ClaimRequest(driver=driver, lease_seconds=LONG)
    for claim in iter(lambda: subject.store.claim(request), None):
        sys.stdout.write(f"{claim.run.id}\n")  # the parent reads it
    subject.close()
