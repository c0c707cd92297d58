"""The legal moves of the machine, as a table and as a drawing.

`LEGAL` says for every phase and every event which phases may follow; nothing at
all means that the event is not due and the very same state comes back. The tests
of the machine hold it to this table, and the README shows what `render` draws.
"""

from itertools import groupby
from typing import Final

PHASES: Final = ("Discovering", "Inferring", "CallingTools", "Finished")
EVENTS: Final = (
    "Discovered",
    "DiscoveryFailed",
    "ModelReplied",
    "ModelFailed",
    "ToolReturned",
    "ToolFailed",
    "CancelRequested",
    "DeadlinePassed",
    "Recovered",
)

_DUE: Final = {
    ("Discovering", "Discovered"): ("Inferring", "Finished"),
    ("Discovering", "DiscoveryFailed"): ("Discovering", "Finished"),
    ("Discovering", "CancelRequested"): ("Finished",),
    ("Discovering", "DeadlinePassed"): ("Finished",),
    ("Discovering", "Recovered"): ("Discovering", "Finished"),
    ("Inferring", "ModelReplied"): ("Inferring", "CallingTools", "Finished"),
    ("Inferring", "ModelFailed"): ("Inferring", "Finished"),
    ("Inferring", "CancelRequested"): ("Finished",),
    ("Inferring", "DeadlinePassed"): ("Finished",),
    ("Inferring", "Recovered"): ("Inferring", "Finished"),
    ("CallingTools", "ToolReturned"): ("Inferring", "CallingTools", "Finished"),
    ("CallingTools", "ToolFailed"): ("Inferring", "CallingTools", "Finished"),
    ("CallingTools", "CancelRequested"): ("Finished",),
    ("CallingTools", "DeadlinePassed"): ("Finished",),
    ("CallingTools", "Recovered"): ("Inferring", "CallingTools", "Finished"),
}
LEGAL: Final = {
    (phase, event): frozenset(_DUE.get((phase, event), ()))
    for phase in PHASES
    for event in EVENTS
}
"""Every phase with every event: the phases that may follow."""

STARTS: Final = {
    "Discovering": "servers to ask",
    "Inferring": "tools known",
    "Finished": "forced tool gone",
}
"""The phases a run may begin in, and when."""


def render() -> str:
    """The table as a Mermaid state diagram, one arrow for each pair of phases."""
    arrows = [
        (PHASES.index(phase), PHASES.index(after), event)
        for (phase, event), allowed in LEGAL.items()
        for after in allowed
    ]
    arrows.sort(key=lambda arrow: (arrow[0], arrow[1], EVENTS.index(arrow[2])))
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {phase}: {when}" for phase, when in STARTS.items()]
    for (phase, after), group in groupby(arrows, key=lambda arrow: arrow[:2]):
        events = ", ".join(event for _, _, event in group)
        lines.append(f"    {PHASES[phase]} --> {PHASES[after]}: {events}")
    lines.append("    Finished --> [*]")
    return "\n".join(lines) + "\n"
