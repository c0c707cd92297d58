"""Where the DynamoDB store keeps what: the keys of its rows.

One table, a partition key `pk` and a sort key `sk`, no index besides. `<uid>` is a
name that nobody used before, given to a conversation or run when it is made, so
that what is left of a removed one is never taken for part of a later one.

    pk                        sk                        what
    schema                    schema                    the layout's version
    conversation#<id>         head                      owner, version, stamps
                              body                      its body
    of-conversation#<uid>     run#<made>                one for each run, for lists
                              key#<client_op_id>        the run with this key
                              segment#<last number>     whose messages came next
    list#<company>            <made>                    one for each conversation,
    list#<company>#<user>     <made>                    and once more by its user
    run#<id>                  head                      all that decides, slim
                              texts, result             what is written once
    of-run#<uid>              setup, header             of the checkpoints
                              event#<last id>           the events of a commit
                              job#<iteration>
                              attempt#<iteration>#<number>
                              keys#, result#<turn>#<revision>
                              commit#<revision>         only of very wide commits
    messages#<uid>            message#<last position>   the messages of a commit
    job#<id>                  job                       which run's it is
    open#<driver>             <made>                    runs that have not ended
    ended#<0 to f>            <completed_at>#<uid>      runs that have
    trash                     <uid>                     partitions to be emptied

`<made>` is an instant and a number that rises within the process. Pieces of long
texts are `text#...` rows of the three partitions that bear a `<uid>`. Ids that are
long or not plain ASCII are named by their SHA-256 in keys. Nothing in here reads or
writes a row.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Final

from agentloop.stores.clock import MachineClock, instant
from agentloop.stores.dynamodb_values import Key, demand_utf8

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FAR: Final = 10**18

TRASH: Final = "trash"
SHARDS: Final[Sequence[str]] = "0123456789abcdef"


def micros(moment: datetime) -> int:
    """An instant as microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


_numbers: Final = count(micros(MachineClock().now()))
"""Begins where an earlier process had not come: those count slower than time goes."""


def made(moment: datetime, uid: str) -> str:
    """A sort key by age; of one instant, by the order they were made in here."""
    return f"{instant(moment)}#{next(_numbers):020d}#{uid}"


def ordered(number: int) -> str:
    """A number that sorts as text, also a negative one.

    Raises:
        ValueError: it is too large.
    """
    if not -_FAR < number < _FAR:
        raise ValueError(f"the number {number} cannot be stored")
    return f"{number + _FAR:019d}"


def named(name: str) -> str:
    """An id, or its digest where it would not do in a key."""
    if _PLAIN.fullmatch(name):
        return name
    demand_utf8(name)
    return "=" + sha256(name.encode()).hexdigest()


# ---------------------------------------------------------------- conversations


def conversation(conversation_id: str) -> str:
    """The partition of a conversation's head and body."""
    return f"conversation#{named(conversation_id)}"


def conversation_head(conversation_id: str) -> Key:
    """Where a conversation's owner and version are."""
    return conversation(conversation_id), "head"


def conversation_body(conversation_id: str) -> Key:
    """Where a conversation's body is."""
    return conversation(conversation_id), "body"


def of_conversation(uid: str) -> str:
    """The partition of all that a conversation gathers."""
    return f"of-conversation#{uid}"


def client_key(uid: str, client_op_id: str) -> Key:
    """Where a run's key is taken."""
    return of_conversation(uid), f"key#{named(client_op_id)}"


def segment(uid: str, last: int) -> Key:
    """Where it says whose messages end with this number."""
    return of_conversation(uid), f"segment#{ordered(last)}"


def listed(company_id: int, user_id: int | None = None) -> str:
    """The partition that lists what a reader sees."""
    return f"list#{company_id}" + ("" if user_id is None else f"#{user_id}")


# ---------------------------------------------------------------- runs


def run(run_id: str) -> str:
    """The partition of a run's row."""
    return f"run#{named(run_id)}"


def run_head(run_id: str) -> Key:
    """Where all is that decides about a run."""
    return run(run_id), "head"


def of_run(uid: str) -> str:
    """The partition of what a run's checkpoints bring, but for messages."""
    return f"of-run#{uid}"


def messages(uid: str) -> str:
    """The partition of a run's messages, which may outlive the run."""
    return f"messages#{uid}"


def message(uid: str, last: int) -> Key:
    """Where the messages of the commit are whose last has this position."""
    return messages(uid), f"message#{ordered(last)}"


def event(uid: str, last: int) -> Key:
    """Where the events of the commit are whose last has this id."""
    return of_run(uid), f"event#{ordered(last)}"


def run_job(uid: str, iteration: int) -> Key:
    """Where a run's job is."""
    return of_run(uid), f"job#{ordered(iteration)}"


def attempt(uid: str, iteration: int, number: int) -> Key:
    """Where an attempt is."""
    return of_run(uid), f"attempt#{ordered(iteration)}#{ordered(number)}"


def result(uid: str, turn: int, revision: int) -> Key:
    """Where the results of a commit within a turn are."""
    return of_run(uid), f"result#{ordered(turn)}#{ordered(revision)}"


def result_keys(uid: str, turn: int, revision: int) -> Key:
    """Where the keys of these results are, which are read more often."""
    return of_run(uid), f"keys#{ordered(turn)}#{ordered(revision)}"


def commit(uid: str, revision: int) -> Key:
    """Where a very wide commit says that it happened."""
    return of_run(uid), f"commit#{ordered(revision)}"


def job(job_id: str) -> Key:
    """Where it says whose a job is."""
    return f"job#{named(job_id)}", "job"


def opened(driver: str, made_at: str) -> Key:
    """Where a run waits for whoever drives it next."""
    return opened_by(driver), made_at


def opened_by(driver: str) -> str:
    """The partition of a driver's runs."""
    return f"open#{named(driver)}"


def ended(completed_at: str, uid: str) -> Key:
    """Where a run that ended waits to be pruned."""
    return ended_in(uid[0]), f"{completed_at}#{uid}"


def ended_in(shard: str) -> str:
    """The partition of the ended runs whose uid begins so."""
    return f"ended#{shard}"
