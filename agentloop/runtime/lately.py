"""What was made of the same JSON before, for requests that are like the last ones.

A host mostly begins many conversations and runs of a few kinds. What follows from a
kind alone is made once and handed out again, since nobody changes it. Few are kept,
and small ones only. This room does not know what is made.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, TypeVar

from agentloop.wire import dump, is_clean, undump

T = TypeVar("T")
KINDS: Final = 64
"""How many are kept."""
_LONGEST: Final = 16_384
"""Characters of JSON; what is longer is rare, and made each time."""


def by_text(make: Callable[[Any], T]) -> Callable[[Any], T]:
    """`make`, which is not asked again for JSON that has the text of one before.

    Values that are not seen to be JSON of Python's own types go straight to `make`:
    their text need not be all that they are. What it raises is not remembered. Whoever
    calls has made sure that the value is not too large to be walked.
    """
    known = lru_cache(KINDS)(lambda text: make(undump(text)))

    def made(value: Any) -> T:
        if not is_clean(value):
            return make(value)
        text = dump(value)
        return known(text) if len(text) <= _LONGEST else make(value)

    return made
