"""Where a SQLite file keeps the rows that a run brings all the time.

A commit pays for every page it touches, and an index has pages of its own. So these
rows have one integer for a key, their place, and need no index: in its upper half the
run's number, in its lower the row's within the run. A run's rows thus lie together,
in their order, from `run << 32` to the place before `(run + 1) << 32`.

This room knows numbers only, no table and no statement.
"""

from typing import Final

LAST: Final = 2**32 - 1
"""The highest number of a row within its run."""
LAST_ATTEMPT: Final = 2**16 - 1
"""The highest number of an attempt within its job."""


def place(run: int, number: int) -> int:
    """The place of a row within its run.

    Raises:
        OverflowError: there is none for such a number.
    """
    if not 0 <= number <= LAST:
        raise OverflowError(f"the number {number} is not within 0 and {LAST}")
    return run << 32 | number


def job_place(run: int, iteration: int) -> int:
    """The place of a job, whose attempts have the places after it.

    Raises:
        OverflowError: there is none for such an iteration.
    """
    return place(run, iteration << 16)


def attempt_place(run: int, iteration: int, number: int) -> int:
    """The place of an attempt, as far after its job's as its number says.

    Raises:
        OverflowError: there is none for such a number.
    """
    if not 0 <= number <= LAST_ATTEMPT:
        raise OverflowError(f"the attempt {number} is not within 0 and {LAST_ATTEMPT}")
    return job_place(run, iteration) + number
