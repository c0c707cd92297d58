"""How the values of the hot path are declared: unchanging, and cheap to make.

`value` says what attrs' `frozen` says, and type checkers hold everybody to it. At
run time there is no guard on assignment: it triples what making an instance costs,
and a turn makes some thirty of them. What a caller is handed (content, config, the
resources of `run`) is truly `frozen`; `value` is for what the library hands itself.
This room must not hold anything else.
"""

from functools import partial
from typing import TYPE_CHECKING

from attrs import define

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    value = partial(define, unsafe_hash=True)

__all__ = ["value"]
