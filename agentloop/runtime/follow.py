"""Following a run's events: each kept one once, in order, up to the last."""

from collections.abc import Iterable, Iterator

from agentloop.core.run import RunEvent


class Cursor:
    """Where a reader of a run's events is, and whether there is more to come."""

    def __init__(self, after: int) -> None:
        self.after = after
        self._ended = False

    def more(self) -> bool:
        """Whether the terminal event is still to come."""
        return not self._ended

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
