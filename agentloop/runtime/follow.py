"""Following a run's events: each kept one once, in order, up to the last."""

from collections.abc import Iterable, Iterator
from itertools import takewhile

from agentloop.core.run import RunEvent


class Cursor:
    """Where a reader of a run's events is, and whether there is more to come."""

    def __init__(self, after: int) -> None:
        self.after = after
        self._ended = False

    def more(self) -> bool:
        """Whether the terminal event is still to come."""
        return not self._ended

    def gapless(self, live: Iterable[RunEvent]) -> Iterator[RunEvent]:
        """What comes live, up to the first event before which one is missing.

        Another process drove the run in between, and what it did is in the store,
        together with the event that showed it. To be read through `fresh`.
        """
        return takewhile(lambda event: not self.misses(event), live)

    def misses(self, event: RunEvent) -> bool:
        """Whether events before this one are not seen yet."""
        return event.id is not None and event.id > self.after + 1

    def fresh(self, events: Iterable[RunEvent]) -> Iterator[RunEvent]:
        """Those that the reader has not seen; stops at the terminal event."""
        for event in events:
            if event.id is not None:
                if event.id <= self.after:
                    continue
                self.after = event.id
            self._ended = event.kind == "terminal"
            yield event
            if self._ended:
                return
