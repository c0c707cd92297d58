"""Promises about conversations, runs, readers, messages and house-keeping."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from attrs import evolve

from agentloop.ports import (
    AttemptRow,
    EventRow,
    NewConversationRow,
    Reader,
    RunRow,
    VersionMovedError,
)
from agentloop.stores.clock import instant, moment
from agentloop.testing.conformance.judging import demand, promise, raises, same
from agentloop.testing.conformance.subject import (
    Subject,
    change,
    job,
    later,
)

HOSTILE = {
    "a lone surrogate": json.dumps("\ud800"),
    "an escaped NUL": json.dumps("a\x00b"),
    "quotes": json.dumps("'; DROP TABLE runs; --"),
    "5,000 levels": "[" * 5_000 + "]" * 5_000,
    "odd numbers": "[1e400, -0.0,9007199254740993,0.10]",
    "odd spaces": '{ "b":1,  "a": 2, "a": 3}',
}


# ---------------------------------------------------------------- conversations


@promise()
def create_conversation(s: Subject) -> None:
    """A new conversation is at version 0 and comes back as it was given."""
    row = s.conversation(body='{"name":"rooms"}')
    same((row.version, row.body), (0, '{"name":"rooms"}'), "version and body")
    same(row.created_at, row.updated_at, "the stamps of a new conversation")
    demand(row.created_at.endswith("Z"), f"{row.created_at!r} is no UTC instant")
    same(s.store.get_conversation(s.ours, row.id), row, "get_conversation")


@promise()
def conversation_ids_are_unique(s: Subject) -> None:
    """A second conversation with an id is refused and changes nothing."""
    row = s.conversation(body='"first"')
    again = NewConversationRow(id=row.id, company_id=7, user_id=7, body='"second"')
    raises(lambda: s.store.create_conversation(again), ValueError, "a known id")
    same(s.store.get_conversation(s.ours, row.id), row, "the first conversation")


@promise()
def list_conversations(s: Subject) -> None:
    """A list is newest first, a slice of it comes with the whole number."""
    made = [s.conversation() for _ in range(4)]
    newest = tuple(reversed(made))
    same(s.store.list_conversations(s.ours, 0, 9), (newest, 4), "the list")
    same(s.store.list_conversations(s.ours, 1, 2), (newest[1:3], 4), "a slice")
    same(s.store.list_conversations(s.mine, 9, 2), ((), 4), "a slice past the end")


# ---------------------------------------------------------------- runs


@promise()
def insert_run(s: Subject) -> None:
    """A new run is pending and comes back with all that was given."""
    new = s.new_run(s.conversation().id, tool_choice='{"type":"any"}')
    row, created = s.store.insert_run(new)
    demand(created, "a new run came back as one that was there")
    for name in ("id", "conversation_id", "client_op_id", "driver", "config"):
        same(getattr(row, name), getattr(new, name), name)
    same((row.payload, row.tool_choice), (new.payload, new.tool_choice), "payload")
    same((row.status, row.base_version, row.iterations), ("pending", 0, 0), "status")
    same((row.result, row.completed_at, row.cancel_requested), (None, None, False), "")
    same(s.store.get_run(s.ours, new.id), row, "get_run")
    same(s.store.find_run(new.conversation_id, new.client_op_id), row, "find_run")


@promise()
def keys_are_unique(s: Subject) -> None:
    """A known key returns the first row unchanged, whatever the rest says."""
    first = s.run()
    where = first.conversation_id
    again = s.new_run(
        where, client_op_id=first.client_op_id, payload='"x"', expected_version=9
    )
    same(s.store.insert_run(again), (first, False), "insert_run with a known key")
    same(s.store.list_runs(s.ours, where), (first,), "the runs")
    same(s.store.get_run(s.ours, again.id), None, "the id of the second")


@promise()
def keys_belong_to_conversations(s: Subject) -> None:
    """One key may be used once in each conversation."""
    first, second = s.run(client_op_id="key"), s.run(client_op_id="key")
    same(s.store.find_run(second.conversation_id, "key"), second, "the second run")
    same(s.store.find_run(first.conversation_id, "key"), first, "the first run")


@promise()
def versions_are_checked(s: Subject) -> None:
    """A run at another version than the conversation's is refused, unstored."""
    where = s.conversation().id
    s.finished(where, '"a"')
    for expected in (0, 2):
        new = s.new_run(where, expected_version=expected)
        raises(
            partial(s.store.insert_run, new),
            VersionMovedError,
            f"version {expected} of a conversation at 1",
        )
        same(s.store.get_run(s.ours, new.id), None, "the refused run")


@promise()
def runs_need_a_conversation(s: Subject) -> None:
    """A run in no conversation is a LookupError."""
    new = s.new_run(s.fresh("nowhere"))
    raises(lambda: s.store.insert_run(new), LookupError, "an unknown conversation")


@promise()
def run_ids_are_unique(s: Subject) -> None:
    """A second run with an id is refused, whatever its key."""
    run = s.run()
    raises(lambda: s.run(id=run.id), ValueError, "a known run id")
    same(s.store.get_run(s.ours, run.id), run, "the first run")


@promise()
def list_runs(s: Subject) -> None:
    """The runs of a conversation are listed oldest first."""
    where = s.conversation().id
    made = tuple(s.run(where) for _ in range(3))
    same(s.store.list_runs(s.ours, where), made, "list_runs")


# ---------------------------------------------------------------- readers


def _full_run(s: Subject) -> RunRow:
    driven = s.drive()
    run_id = driven.run_id
    attempt = AttemptRow(run_id=run_id, iteration=1, number=1, body="{}")
    brought = change(
        setup='"setup"',
        messages=('"hello"',),
        jobs=(job(run_id, 1),),
        attempts=(attempt,),
        events=(EventRow(1, '"event"'),),
    )
    return s.end(s.commit(driven, brought))


@promise()
def tenants_are_apart(s: Subject) -> None:
    """What a reader may not see answers exactly like what does not exist."""
    run, store = _full_run(s), s.store
    reads: dict[str, Callable[[Reader, RunRow], object]] = {
        "get_conversation": lambda r, x: store.get_conversation(r, x.conversation_id),
        "messages": lambda r, x: store.messages(r, x.conversation_id),
        "get_run": lambda r, x: store.get_run(r, x.id),
        "list_runs": lambda r, x: store.list_runs(r, x.conversation_id),
        "request_cancel": lambda r, x: store.request_cancel(r, x.id),
        "list_jobs": lambda r, x: store.list_jobs(r, x.id),
        "get_job": lambda r, x: store.get_job(r, job(x.id, 1).id),
        "events": lambda r, x: store.events(r, x.id),
        "list": lambda r, x: store.list_conversations(r, 0, 9)[1] if x is run else 0,
        "delete": lambda r, x: store.delete_conversation(r, x.conversation_id),
    }
    absent = evolve(run, id=s.fresh("no"), conversation_id=s.fresh("no"))
    for name, read in reads.items():
        for blind in s.blind:
            wanted = read(s.ours, absent)
            same(read(blind, run), wanted, f"{name} for {blind}")
        demand(read(s.mine, run), f"{name} shows its owner nothing")


@promise()
def the_blind_change_nothing(s: Subject) -> None:
    """A cancel or delete by somebody who sees nothing leaves the rows alone."""
    run = s.run()
    for blind in s.blind:
        s.store.request_cancel(blind, run.id)
        s.store.delete_conversation(blind, run.conversation_id)
    same(s.store.get_run(s.ours, run.id), run, "the run")


@promise()
def users_see_their_own_runs(s: Subject) -> None:
    """A run that another user started in a conversation is that user's row."""
    where = s.conversation().id
    mine, theirs = s.run(where), s.run(where, user_id=2)
    same(s.store.list_runs(s.mine, where), (mine,), "a user's list")
    same(s.store.list_runs(s.ours, where), (mine, theirs), "the company's list")
    same(s.store.get_run(s.mine, theirs.id), None, "another user's run")


# ---------------------------------------------------------------- messages


@promise()
def deltas(s: Subject) -> None:
    """A page holds each message after `since` and up to `until`, gap-free."""
    where = s.conversation().id
    for bodies in (("1", "2"), ("3",), ("4", "5", "6")):
        s.finished(where, *bodies)
    for since in (-1, 0, 1, 2, 3, 5, 6, 7, 10**30):
        for until in (None, 0, 1, 3, 4, 6, 99, 10**30):
            page = s.store.messages(s.ours, where, since, until)
            last = 6 if until is None else until
            wanted = [(n, str(n)) for n in range(1, 7) if since < n <= last]
            found = [(row.sequence_no, row.body) for row in page.rows] if page else None
            same(found, wanted, f"messages since {since} until {until}")
            same(page and page.version, 6, "the page's version")


@promise()
def messages_name_their_run(s: Subject) -> None:
    """A message tells its run and its place therein."""
    where = s.conversation().id
    first, second = s.finished(where, '"a"', '"b"'), s.finished(where, '"c"')
    page = s.store.messages(s.ours, where)
    found = [(row.run_id, row.position) for row in page.rows] if page else None
    same(found, [(first.id, 0), (first.id, 1), (second.id, 0)], "run and position")


_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@promise()
def instants_are_in_order(s: Subject) -> None:
    """Stamps are UTC with microseconds, and in the order of what they are of."""
    where = s.conversation()
    run = s.finished(where.id, '"a"')
    after = s.store.get_conversation(s.ours, where.id)
    page = s.store.messages(s.ours, where.id)
    staged = page.rows[0].created_at if page and page.rows else ""
    updated = after.updated_at if after else ""
    stamps = [where.created_at, run.started_at, staged, run.completed_at or ""]
    wrong = [each for each in (*stamps, updated) if not _INSTANT.fullmatch(each)]
    same(wrong, [], "instants of another form")
    same(stamps, sorted(stamps), "made, started, staged and ended")
    same(updated, run.completed_at, "when the conversation was updated")
    same(where.updated_at, where.created_at, "when a new one was updated")


@promise(needs="clock")
def instants_are_the_clocks(s: Subject) -> None:
    """Each stamp is the time of the call that made the row."""
    seen = []
    where = s.conversation()
    seen.append(where.created_at)
    s.clock.move(60)
    run = s.run(where.id)
    seen.append(run.started_at)
    s.clock.move(60)
    driven = s.say(s.drive(run), '"a"')
    s.clock.move(60)
    seen += ["", s.end(driven).completed_at or ""]
    page = s.store.messages(s.ours, where.id)
    seen[2] = page.rows[0].created_at if page and page.rows else ""
    first = moment(seen[0])
    wanted = [instant(first + timedelta(seconds=60 * n)) for n in range(4)]
    same(seen, wanted, "made, started, staged and ended, a minute apart")
    after = s.store.get_conversation(s.ours, where.id)
    same(after and after.updated_at, seen[3], "when the conversation was updated")


@promise()
def staged_messages_are_invisible(s: Subject) -> None:
    """What a run has staged is seen by nobody before it ends."""
    driven = s.say(s.drive(), '"a"', '"b"')
    page = s.store.messages(s.ours, driven.conversation_id)
    same(page and (page.version, page.rows), (0, ()), "the page before the end")
    same(s.store.run_messages(driven.run_id), ('"a"', '"b"'), "run_messages")


# ---------------------------------------------------------------- cancel


@promise()
def cancel_is_kept(s: Subject) -> None:
    """A cancel needs no lease and may be repeated."""
    run = s.run()
    flagged = evolve(run, cancel_requested=True)
    for _ in range(2):
        same(s.store.request_cancel(s.mine, run.id), flagged, "request_cancel")
    same(s.store.get_run(s.ours, run.id), flagged, "the run")
    same(s.store.request_cancel(s.ours, s.fresh("no")), None, "an unknown run")


# ---------------------------------------------------------------- house-keeping


@promise()
def delete_takes_everything(s: Subject) -> None:
    """Nothing of a deleted conversation is read or claimed any more."""
    run, kept = _full_run(s), _full_run(s)
    where = run.conversation_id
    pending = s.run(where, expected_version=1)
    demand(s.store.delete_conversation(s.mine, where), "delete answered False")
    demand(not s.store.delete_conversation(s.mine, where), "it was deleted twice")
    nothing = s.all_of(s.fresh("nowhere"))
    for gone in (run, pending):
        same(s.all_of(gone.id), nothing, "what is left of a deleted run")
    same(s.store.find_run(where, run.client_op_id), None, "find_run")
    same(s.store.get_job(s.ours, job(run.id, 1).id), None, "get_job")
    same(s.claim(pending.id), None, "a claim of a deleted run")
    same(s.claim(), None, "a claim of whatever is due")
    same(s.store.get_run(s.ours, kept.id), kept, "a run of another conversation")


@promise()
def keys_outlive_a_prune(s: Subject) -> None:
    """A run's key stays taken for a day after its end, whatever is pruned."""
    ended = s.end(s.drive())
    s.store.prune(instant(later(s.clock, 365)))
    again = s.new_run(ended.conversation_id, client_op_id=ended.client_op_id)
    same(s.store.insert_run(again), (ended, False), "a key after a prune")


@promise(needs="clock")
def prune_removes_old_runs(s: Subject) -> None:
    """An ended run goes with what only it needs; joined messages stay."""
    run, still_open = _full_run(s), s.run()
    other = s.end(s.drive())
    before = s.store.messages(s.ours, run.conversation_id)
    s.clock.move(2 * 86_400)
    s.store.prune(instant(later(s.clock, -30)))
    demand(s.store.get_run(s.ours, run.id), "it ended after the instant, and is gone")
    removed = s.store.prune(instant(later(s.clock, 0)))
    demand(removed >= 2, f"prune removed two runs, and says {removed}")
    same(s.store.get_run(s.ours, run.id), None, "the pruned run")
    same(s.store.list_jobs(s.ours, run.id), (), "its jobs")
    same(s.store.events(s.ours, run.id), (), "its events")
    same(s.store.run_setup(run.id), None, "its setup")
    same(s.store.messages(s.ours, run.conversation_id), before, "the conversation")
    demand(s.store.get_run(s.ours, still_open.id), "an open run was pruned")
    key = {"client_op_id": other.client_op_id, "expected_version": 0}
    same(s.store.find_run(other.conversation_id, other.client_op_id), None, "its key")
    again = s.store.insert_run(s.new_run(other.conversation_id, **key))
    same(again[1], True, "whether its key can be used again")


@promise()
def prune_needs_an_instant(s: Subject) -> None:
    """What is no instant, or names no offset, is refused."""
    for text in ("yesterday", "2026-05-18T13:21:30"):
        raises(partial(s.store.prune, text), ValueError, f"prune({text!r})")


# ---------------------------------------------------------------- values


def _texts_come_back(s: Subject, text: str, what: str) -> None:
    where = s.conversation(body=text)
    run = s.run(where.id, config=text, payload=text, tool_choice=text)
    driven = s.drive(run, lease=0.0)
    tried = AttemptRow(run_id=run.id, iteration=1, number=1, body=text, response=text)
    brought = change(
        header=text,
        setup=text,
        messages=(text,),
        results=(("call", text),),
        jobs=(job(run.id, 1, text),),
        attempts=(tried,),
        events=(EventRow(1, text),),
    )
    s.commit(driven, brought, lease=0.0)
    claim = s.drive(run).claim
    found = s.store.get_conversation(s.ours, where.id)
    same(found and found.body, text, f"a conversation's body with {what}")
    texts = (claim.run.config, claim.run.payload, claim.run.tool_choice)
    same(texts, (text, text, text), f"a run's texts with {what}")
    same((claim.header, claim.setup), (text, text), f"header and setup with {what}")
    same(claim.messages, (text,), f"messages with {what}")
    same(claim.results, (("call", text),), f"results with {what}")
    seen = s.store.get_job(s.ours, job(run.id, 1).id)
    same(seen and (seen[0].body, seen[1]), (text, (tried,)), f"a job with {what}")
    same(s.store.events(s.ours, run.id), brought.events, f"an event with {what}")


@promise()
def hostile_values(s: Subject) -> None:
    """Bodies are text in ASCII and come back byte for byte, never parsed."""
    for what, text in HOSTILE.items():
        _texts_come_back(s, text, what)


@promise()
def large_payloads(s: Subject) -> None:
    """A body of two megabytes comes back whole, from every place."""
    _texts_come_back(s, json.dumps("x" * 2_000_000), "two megabytes")


@promise()
def many_messages(s: Subject) -> None:
    """A run of a thousand messages joins its conversation at once."""
    bodies = [f'"{number}"' for number in range(1_000)]
    where = s.conversation().id
    s.finished(where, *bodies)
    page = s.store.messages(s.ours, where)
    same(page and [row.body for row in page.rows], bodies, "the messages")


@promise()
def ping_answers(s: Subject) -> None:
    """A store that can be used answers a ping with nothing."""
    s.store.ping()
    demand(isinstance(s.store.blocking, bool), "`blocking` is no bool")
