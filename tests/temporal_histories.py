"""Histories of this version's workflows, recorded once and replayed for ever.

`python -m tests.temporal_histories` plays runs on a server of its own and writes what
Temporal recorded of each to `tests/golden/temporal/VERSION`. Do so for a release; the
histories of earlier ones stay, because runs outlive an upgrade.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from temporalio.client import WorkflowHistory

from agentloop import Run
from agentloop.engines.temporal import TemporalServer
from agentloop.testing.engines import Stage, opened
from agentloop.testing.engines.flows import FLOWS
from agentloop.testing.engines.left import SCOPE
from agentloop.testing.engines.waiting import until
from tests.temporal_server import TemporalProcess
from tests.temporal_world import Asking

FOLDER = Path(__file__).parent / "golden" / "temporal"
VERSION = version("agentloop")
"""Of the package: a release without histories of its own fails the replay gate."""
PLAYED = (
    "answer",
    "server tools",
    "parallel tools",
    "throttled",
    "throttled for good",
    "discovery",
    "client tools",
    "rows",
)
_WHO = re.compile(r"\d+@[\w.-]+")
_TRACE = re.compile(r'"stackTrace": "(?:[^"\\]|\\.)*"')


def _cancelled(stage: Stage) -> Run:
    """A run that is cancelled while it waits for its next attempt."""
    run = stage.start("cancelled while waiting")
    until(lambda: stage.tried(run) == 2, "the run waits")
    stage.loop.cancel_run(run.id, scope=SCOPE)
    return stage.ended(run)


def _removed(stage: Stage) -> Run:
    """A run whose conversation is deleted while it waits."""
    run = stage.start("waits")
    until(lambda: stage.tried(run) == 1, "the run waits")
    stage.loop.delete_conversation(run.conversation_id, scope=SCOPE)
    return run


OTHERS: dict[str, Callable[[Stage], Run]] = {
    "cancelled": _cancelled,
    "removed": _removed,
}


def record(folder: Path) -> None:
    """Play the runs and write their histories."""
    with tempfile.TemporaryDirectory() as name:
        server = TemporalProcess(Path(name))
        server.start()
        try:
            _record(folder, server, name)
        finally:
            server.kill()


def _record(folder: Path, process: TemporalProcess, name: str) -> None:
    # Four commands in a history, so that longer runs are continued in a fresh one.
    where = f"{process.address}/golden {name}"
    server = TemporalServer(process.address)
    with opened("tests.temporal_place:brief", where) as stage:
        stage.staff(1)
        for flow in PLAYED:
            _write(folder, flow, server, stage.ended(stage.start(flow)))
        for title, play in OTHERS.items():
            _write(folder, title, server, play(stage))


def _write(folder: Path, title: str, server: TemporalServer, run: Run) -> None:
    asking = Asking(server, run.id)
    asking.result()
    for number, history in enumerate(asking.histories(), 1):
        # Who worked and where is nobody's business, and no replay's either.
        text = _WHO.sub("1@worker", history.to_json())
        text = _TRACE.sub('"stackTrace": ""', text)
        file = folder / f"{title.replace(' ', '_')}.{number}.json"
        file.write_text(text + "\n")


def recorded() -> list[Path]:
    """Every history that is kept."""
    return sorted(FOLDER.glob("*/*.json"))


def history_of(file: Path) -> WorkflowHistory:
    """A kept history."""
    return WorkflowHistory.from_json("recorded", file.read_text())


def main() -> None:
    """Record the histories of this version anew."""
    assert set(PLAYED) <= set(FLOWS)
    folder = FOLDER / VERSION
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record(folder)
    print(*(f"{file.name}: {file.stat().st_size}" for file in recorded()), sep="\n")


if __name__ == "__main__":
    main()
