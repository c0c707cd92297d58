"""The store contract, first half: conversations, runs, readers, house-keeping."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from attrs import evolve

from agentloop.ports import (
    AttemptRow,
    NewConversationRow,
    Reader,
    RunRow,
    VersionMovedError,
)
from agentloop.stores.clock import MachineClock, instant, moment
from agentloop.stores.memory import MemoryStore
from tests.store_bench import (
    BLIND,
    COMPANY,
    KINDS,
    MINE,
    OURS,
    START,
    START_TEXT,
    STATUSES,
    USER,
    Bench,
    at_once,
    change,
    job,
    open_bench,
)

DAY = 86_400.0


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for each shipped store."""
    yield from open_bench(request.param, tmp_path)


# ---------------------------------------------------------------- conversations


def test_create_conversation(bench: Bench) -> None:
    """A new conversation is at version 0 and bears the store's time."""
    row = bench.conversation(body='{"name":"rooms"}')
    assert (row.company_id, row.user_id, row.version) == (COMPANY, USER, 0)
    assert (row.created_at, row.updated_at) == (START_TEXT, START_TEXT)
    bench.reopen()
    assert bench.store.get_conversation(OURS, row.id) == row


def test_conversation_ids_are_unique(bench: Bench) -> None:
    """A second conversation with an id is refused and changes nothing."""
    row = bench.conversation(body='"first"')
    again = NewConversationRow(id=row.id, company_id=99, user_id=1, body='"second"')
    with pytest.raises(ValueError, match="stored"):
        bench.store.create_conversation(again)
    assert bench.store.get_conversation(OURS, row.id) == row


def test_list_is_newest_first(bench: Bench) -> None:
    """A list begins with the newest, also among those of one instant."""
    made = [bench.conversation() for _ in range(2)]
    bench.clock.move(1)
    made.append(bench.conversation())
    listed, total = bench.store.list_conversations(OURS, 0, 10)
    assert (listed, total) == (tuple(reversed(made)), 3)


@pytest.mark.parametrize(
    ("offset", "limit", "shown"),
    [(0, 2, [4, 3]), (2, 2, [2, 1]), (4, 2, [0]), (5, 2, []), (0, 0, [])],
)
def test_list_slices(bench: Bench, offset: int, limit: int, shown: list[int]) -> None:
    """A slice of the list comes with the number of all that are seen."""
    made = [bench.conversation() for _ in range(5)]
    listed, total = bench.store.list_conversations(OURS, offset, limit)
    assert (list(listed), total) == ([made[i] for i in shown], 5)


def test_list_shows_what_the_reader_sees(bench: Bench) -> None:
    """A company's reader lists all of its users, a user's reader its own."""
    mine, other = bench.conversation(), bench.conversation(user=USER + 1)
    assert bench.store.list_conversations(OURS, 0, 9) == ((other, mine), 2)
    assert bench.store.list_conversations(MINE, 0, 9) == ((mine,), 1)
    assert bench.store.list_conversations(BLIND[0], 0, 9) == ((), 0)


# ---------------------------------------------------------------- readers

READS = {
    "get_conversation": (
        lambda b, r, x: b.store.get_conversation(r, x.conversation_id)
    ),
    "messages": lambda b, r, x: b.store.messages(r, x.conversation_id),
    "get_run": lambda b, r, x: b.store.get_run(r, x.id),
    "request_cancel": lambda b, r, x: b.store.request_cancel(r, x.id),
    "list_runs": lambda b, r, x: b.store.list_runs(r, x.conversation_id),
    "list_jobs": lambda b, r, x: b.store.list_jobs(r, x.id),
    "get_job": lambda b, r, x: b.store.get_job(r, job(x.id, 1).id),
    "events": lambda b, r, x: b.store.events(r, x.id),
    "delete": lambda b, r, x: b.store.delete_conversation(r, x.conversation_id),
}


def _run_with_everything(bench: Bench) -> RunRow:
    driven = bench.drive()
    driven = bench.commit(
        driven,
        change(
            setup='"setup"',
            messages=('"hello"',),
            jobs=(job(driven.run_id, 1),),
            attempts=(
                AttemptRow(run_id=driven.run_id, iteration=1, number=1, body="{}"),
            ),
        ),
    )
    return bench.end(driven)


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
@pytest.mark.parametrize("blind", BLIND, ids=["company", "company-user", "user"])
def test_unseen_is_absent(bench: Bench, blind: Reader, read) -> None:
    """What a reader may not see answers exactly like what does not exist."""
    seen = _run_with_everything(bench)
    absent = evolve(seen, id="nowhere", conversation_id="nowhere")
    assert read(bench, blind, seen) == read(bench, OURS, absent)
    assert read(bench, MINE, seen)
    assert not bench.store.request_cancel(blind, bench.run().id)


def test_blind_readers_change_nothing(bench: Bench) -> None:
    """A cancel or delete by somebody who sees nothing leaves the rows alone."""
    run = bench.run()
    for blind in BLIND:
        bench.store.request_cancel(blind, run.id)
        bench.store.delete_conversation(blind, run.conversation_id)
    assert bench.store.get_run(OURS, run.id) == run


def test_runs_are_seen_by_their_own_scope(bench: Bench) -> None:
    """A run that another user started in a conversation is that user's row."""
    conversation = bench.conversation()
    mine = bench.run(conversation.id)
    theirs = bench.run(conversation.id, user_id=USER + 1)
    assert bench.store.list_runs(OURS, conversation.id) == (mine, theirs)
    assert bench.store.list_runs(MINE, conversation.id) == (mine,)
    assert bench.store.get_run(MINE, theirs.id) is None


# ---------------------------------------------------------------- inserting runs


def test_insert_run(bench: Bench) -> None:
    """A new run is pending, bears the store's time and all that was given."""
    new = bench.new_run(bench.conversation().id, tool_choice='{"type":"any"}')
    row, created = bench.store.insert_run(new)
    assert created
    assert row == RunRow(
        id=new.id,
        conversation_id=new.conversation_id,
        company_id=COMPANY,
        user_id=USER,
        client_op_id=new.client_op_id,
        driver="embedded",
        status="pending",
        base_version=0,
        config=new.config,
        payload=new.payload,
        tool_choice='{"type":"any"}',
        iterations=0,
        result=None,
        cancel_requested=False,
        started_at=START_TEXT,
        completed_at=None,
    )
    bench.reopen()
    assert bench.store.get_run(OURS, new.id) == row
    assert bench.store.find_run(new.conversation_id, new.client_op_id) == row


def test_existing_key_wins_over_everything(bench: Bench) -> None:
    """A known key returns its row unchanged, whatever else has changed."""
    conversation = bench.conversation()
    ended = bench.finished(conversation.id, '"one"')
    bench.clock.move(5)
    again = bench.new_run(
        conversation.id,
        client_op_id=ended.client_op_id,
        expected_version=77,
        payload='"other"',
        company_id=1,
    )
    assert bench.store.insert_run(again) == (ended, False)
    assert bench.store.get_run(OURS, again.id) is None


def test_keys_belong_to_a_conversation(bench: Bench) -> None:
    """The same key makes two runs in two conversations."""
    runs = [bench.run(client_op_id="key") for _ in range(2)]
    assert runs[0].id != runs[1].id
    assert bench.store.find_run(runs[0].conversation_id, "other") is None
    assert bench.store.find_run("nowhere", "key") is None


@pytest.mark.parametrize("expected", [0, 1, 3, 10**30, -1])
def test_insert_checks_the_version(bench: Bench, expected: int) -> None:
    """A run for another version than the current one is refused with both."""
    conversation = bench.conversation()
    bench.finished(conversation.id, '"one"', '"two"')
    new = bench.new_run(conversation.id, expected_version=expected)
    with pytest.raises(VersionMovedError) as caught:
        bench.store.insert_run(new)
    assert (caught.value.expected, caught.value.current) == (expected, 2)
    assert bench.store.find_run(conversation.id, new.client_op_id) is None


def test_insert_needs_a_conversation(bench: Bench) -> None:
    """A run in no conversation is a LookupError."""
    with pytest.raises(LookupError, match="nowhere"):
        bench.store.insert_run(bench.new_run("nowhere"))


def test_run_ids_are_unique(bench: Bench) -> None:
    """A second run with an id is refused, whatever its key."""
    run = bench.run()
    with pytest.raises(ValueError, match="stored"):
        bench.run(id=run.id)
    assert bench.store.get_run(OURS, run.id) == run


def test_sixteen_threads_insert_one_run(bench: Bench) -> None:
    """Sixteen threads with one key make one row, and one of them made it."""
    where = bench.conversation().id
    rows = [bench.new_run(where, client_op_id="key") for _ in range(16)]
    answers = at_once([lambda row=row: bench.store.insert_run(row) for row in rows])
    assert len({row.id for row, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1
    assert len(bench.store.list_runs(OURS, where)) == 1


def test_list_runs_is_oldest_first(bench: Bench) -> None:
    """Runs are listed by their start, those of one instant as inserted."""
    where = bench.conversation().id
    late = [bench.run(where) for _ in range(2)]
    bench.clock.move(-10)
    early = bench.run(where)
    assert bench.store.list_runs(OURS, where) == (early, *late)
    assert bench.store.list_runs(OURS, "nowhere") == ()


# ---------------------------------------------------------------- cancel


def test_cancel_flags_an_open_run(bench: Bench) -> None:
    """A cancel is kept on a run that has not ended, and may be repeated."""
    run = bench.run()
    flagged = evolve(run, cancel_requested=True)
    assert bench.store.request_cancel(MINE, run.id) == flagged
    assert bench.store.request_cancel(OURS, run.id) == flagged
    bench.reopen()
    assert bench.store.get_run(OURS, run.id) == flagged


@pytest.mark.parametrize("status", STATUSES)
def test_cancel_changes_no_ended_run(bench: Bench, status: str) -> None:
    """A cancel of a run that has ended returns it as it is."""
    ended = bench.end(bench.drive(), status=status)
    assert bench.store.request_cancel(OURS, ended.id) == ended
    assert not ended.cancel_requested


def test_cancel_of_nothing(bench: Bench) -> None:
    """A cancel of a run that does not exist answers None."""
    assert bench.store.request_cancel(OURS, "nowhere") is None


# ---------------------------------------------------------------- messages


def _three_runs(bench: Bench) -> str:
    where = bench.conversation().id
    bench.finished(where, '"1"', '"2"')
    bench.finished(where, '"3"')
    bench.finished(where, '"4"', '"5"', '"6"')
    return where


@pytest.mark.parametrize("since", [-1, 0, 1, 2, 3, 5, 6, 7, 10**30])
@pytest.mark.parametrize("until", [None, 0, 1, 2, 3, 4, 6, 99, 10**30])
def test_messages_between(bench: Bench, since: int, until: int | None) -> None:
    """A page holds every message after `since` and up to `until`, gap-free."""
    where = _three_runs(bench)
    page = bench.store.messages(OURS, where, since, until)
    last = 6 if until is None else until
    wanted = [n for n in range(1, 7) if since < n <= last]
    assert [row.sequence_no for row in page.rows] == wanted
    assert [row.body for row in page.rows] == [f'"{n}"' for n in wanted]
    assert page.version == 6


def test_messages_name_their_run_and_place(bench: Bench) -> None:
    """A message tells its run, its place therein, and when it was staged."""
    where = bench.conversation().id
    bench.finished(where, '"a"')
    driven = bench.say(bench.drive(bench.run(where, expected_version=1)), '"b"')
    bench.clock.move(2)
    driven = bench.say(driven, '"c"')
    staged = instant(bench.clock.now())
    bench.clock.move(2)
    bench.end(driven)
    bench.reopen()
    rows = bench.store.messages(OURS, where, 1).rows
    assert [(row.run_id, row.position) for row in rows] == [
        (driven.run_id, 0),
        (driven.run_id, 1),
    ]
    assert [row.created_at for row in rows] == [START_TEXT, staged]


def test_an_empty_conversation_has_an_empty_page(bench: Bench) -> None:
    """A conversation without messages is seen, at version 0."""
    page = bench.store.messages(OURS, bench.conversation().id)
    assert (page.version, page.rows) == (0, ())
    assert bench.store.messages(OURS, "nowhere") is None


def test_staged_messages_are_invisible(bench: Bench) -> None:
    """What a run has staged is seen by nobody before it ends."""
    run = bench.run()
    driven = bench.say(bench.drive(run), '"a"', '"b"')
    assert bench.store.messages(OURS, run.conversation_id).rows == ()
    assert bench.store.get_conversation(OURS, run.conversation_id).version == 0
    assert bench.store.run_messages(driven.run_id) == ('"a"', '"b"')


def test_readers_see_whole_runs_only(bench: Bench) -> None:
    """Version and rows agree in every page that is read while runs finish."""
    where = bench.conversation().id
    pages = []

    def read() -> None:
        while not pages or pages[-1].version < 30:
            pages.append(bench.store.messages(OURS, where))

    def write() -> None:
        for _ in range(10):
            bench.finished(where, '"a"', '"b"', '"c"')

    assert at_once([read, write]) == [None, None]
    assert all(len(page.rows) == page.version for page in pages)
    assert all(page.version % 3 == 0 for page in pages)


# ---------------------------------------------------------------- deleting


def test_delete_takes_everything_along(bench: Bench) -> None:
    """Nothing of a deleted conversation can be read any more."""
    run = _run_with_everything(bench)
    kept = _run_with_everything(bench)
    assert bench.store.delete_conversation(OURS, run.conversation_id)
    bench.reopen()
    unseen = evolve(run, id="nowhere", conversation_id="nowhere")
    for read in READS.values():
        assert read(bench, OURS, run) == read(bench, OURS, unseen)
    assert bench.store.run_messages(run.id) == ()
    assert bench.store.run_setup(run.id) is None
    assert bench.store.find_run(run.conversation_id, run.client_op_id) is None
    assert bench.store.get_run(OURS, kept.id) == kept
    assert bench.store.run_messages(kept.id) == ('"hello"',)


def test_delete_happens_once(bench: Bench) -> None:
    """Deleting what is not there, or not there any more, answers False."""
    where = bench.conversation().id
    deleted = [bench.store.delete_conversation(MINE, where) for _ in range(2)]
    assert deleted == [True, False]


def test_deleted_runs_are_not_due(bench: Bench) -> None:
    """A pending run goes with its conversation, and nobody can claim it."""
    run = bench.run()
    bench.store.delete_conversation(OURS, run.conversation_id)
    assert bench.claim() is None
    assert bench.claim(run.id) is None


# ---------------------------------------------------------------- pruning


def test_prune_removes_what_only_old_runs_need(bench: Bench) -> None:
    """A pruned run is gone with its jobs, events and setup."""
    run = _run_with_everything(bench)
    bench.clock.move(2 * DAY)
    assert bench.store.prune(instant(bench.clock.now())) == 1
    bench.reopen()
    assert bench.store.get_run(OURS, run.id) is None
    assert bench.store.list_jobs(OURS, run.id) == ()
    assert bench.store.get_job(OURS, job(run.id, 1).id) is None
    assert bench.store.events(OURS, run.id) == ()
    assert bench.store.run_setup(run.id) is None
    assert bench.store.run_messages(run.id) == ()


def test_prune_keeps_conversations(bench: Bench) -> None:
    """Messages that joined a conversation stay, and the next run goes on."""
    where = bench.conversation().id
    old = bench.finished(where, '"a"', '"b"')
    before = bench.store.messages(OURS, where)
    bench.clock.move(2 * DAY)
    assert bench.store.prune(instant(bench.clock.now())) == 1
    assert bench.store.messages(OURS, where) == before
    assert {row.run_id for row in before.rows} == {old.id}
    bench.finished(where, '"c"')
    page = bench.store.messages(OURS, where)
    assert [row.body for row in page.rows] == ['"a"', '"b"', '"c"']
    assert bench.store.delete_conversation(OURS, where)
    assert bench.store.messages(OURS, where) is None


def test_prune_spares_open_runs(bench: Bench) -> None:
    """Runs that have not ended are never pruned, however old."""
    open_runs = [bench.run(), bench.drive().claim.run]
    bench.clock.move(100 * DAY)
    assert bench.store.prune(instant(bench.clock.now())) == 0
    assert all(bench.store.get_run(OURS, run.id) for run in open_runs)


@pytest.mark.parametrize(
    ("ago", "before", "pruned"),
    [
        (10 * DAY, 0.0, 1),
        (10 * DAY, -9 * DAY, 1),
        (10 * DAY, -11 * DAY, 0),
        (10 * DAY, -10 * DAY, 0),
        (10 * DAY, 99 * DAY, 1),
        (DAY, 99 * DAY, 0),
        (DAY - 1, 99 * DAY, 0),
        (DAY + 1, 99 * DAY, 1),
    ],
)
def test_keys_stay_for_a_day(
    bench: Bench, ago: float, before: float, pruned: int
) -> None:
    """A run that ended before the instant goes, but not within a day of its end."""
    run = bench.end(bench.drive())
    bench.clock.move(ago)
    limit = instant(bench.clock.now() + timedelta(seconds=before))
    assert bench.store.prune(limit) == pruned
    new = bench.new_run(run.conversation_id, client_op_id=run.client_op_id)
    assert bench.store.insert_run(new)[1] == bool(pruned)


def test_prune_understands_offsets(bench: Bench) -> None:
    """An instant in another notation is the same instant."""
    bench.end(bench.drive())
    bench.clock.move(30 * DAY)
    assert bench.store.prune("2026-05-18T15:21:30+02:00") == 0
    assert bench.store.prune("2026-05-18T15:21:31+02:00") == 1


@pytest.mark.parametrize("text", ["yesterday", "", "2026-05-18T13:21:30"])
def test_prune_needs_an_instant(bench: Bench, text: str) -> None:
    """What is no instant, or has no offset, is refused and nothing is pruned."""
    run = bench.end(bench.drive())
    bench.clock.move(30 * DAY)
    with pytest.raises(ValueError, match=r"offset|isoformat"):
        bench.store.prune(text)
    assert bench.store.get_run(OURS, run.id) == run


# ---------------------------------------------------------------- hostile values

HOSTILE = {
    "lone surrogate": json.dumps("\ud800"),
    "escaped NUL": json.dumps("a\x00b"),
    "quotes": json.dumps("'; DROP TABLE runs; --"),
    "five megabytes": json.dumps("x" * 5_000_000),
    "deep": "[" * 5_000 + "]" * 5_000,
    "numbers": "[1e400,-0.0,9007199254740993,0.1]",
    "no JSON": "\\u",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_bodies_come_back_unread(bench: Bench, text: str) -> None:
    """Every text in ASCII comes back as it was given, from every column."""
    where = bench.conversation(body=text)
    run = bench.run(where.id, config=text, payload=text, tool_choice=text)
    driven = bench.drive(run)
    attempt = AttemptRow(run_id=run.id, iteration=1, number=1, body=text, response=text)
    everything = change(
        header=text,
        setup=text,
        messages=(text,),
        results=(("call", text),),
        jobs=(job(run.id, 1, text),),
        attempts=(attempt,),
    )
    driven = bench.commit(driven, everything)
    bench.outlive(run.id)
    claim = bench.claim(run.id)
    assert bench.store.get_conversation(OURS, where.id).body == text
    assert (claim.run.config, claim.run.payload) == (text, text)
    assert claim.run.tool_choice == text
    assert (claim.header, claim.setup, claim.messages) == (text, text, (text,))
    assert claim.results == (("call", text),)
    found, attempts, _ = bench.store.get_job(OURS, job(run.id, 1).id)
    assert (found.body, attempts) == (text, (attempt,))


@pytest.mark.parametrize("name", ["", "' OR 1=1 --", "a\x00b", "é☃", "%", "x" * 10_000])
def test_odd_ids_are_plain_ids(bench: Bench, name: str) -> None:
    """Ids are opaque: whatever they hold, they name one row."""
    run = bench.run(id=name, client_op_id=name)
    assert bench.store.get_run(OURS, name) == run
    assert bench.store.find_run(run.conversation_id, name) == run
    assert bench.store.get_run(OURS, name + "x") is None


# ---------------------------------------------------------------- all in all


def test_ping(bench: Bench) -> None:
    """A store that can be used answers a ping with nothing."""
    assert bench.store.ping() is None


def test_only_waiting_stores_block(bench: Bench) -> None:
    """Memory needs no thread of its own, a file does."""
    assert bench.store.blocking is not isinstance(bench.store, MemoryStore)


def test_default_clock_tells_the_time() -> None:
    """A store that was given no clock stamps rows with the machine's time."""
    before = MachineClock().now()
    bench = Bench(lambda clock: MemoryStore())
    made = moment(bench.conversation().created_at)
    assert before <= made <= MachineClock().now()
    assert MachineClock().monotonic() <= MachineClock().monotonic()


def test_instants_sort_as_text() -> None:
    """Instants have one width and sort as text, whatever their zone."""
    moments = [START, START.replace(microsecond=0), START + timedelta(days=400)]
    texts = [instant(each) for each in moments]
    assert texts[1] == "2026-05-18T13:21:30.000000Z"
    assert sorted(texts) == [instant(each) for each in sorted(moments)]
    assert moment(texts[0]) == START
