"""What must not grow: work is counted, never timed."""

import pytest

from benchmarks import guard


@pytest.mark.parametrize("room", [guard.turns, guard.statements, guard.modules])
def test_nothing_is_above_its_bound(room):
    """No count exceeds the bound that was stated for it."""
    assert [count.finding for count in room() if count.finding is not None] == []


def test_a_walk_of_the_history_would_be_noticed(monkeypatch):
    """A run that reads its whole log on every turn breaks the bound on growth."""
    from agentloop.runtime.desk import Desk

    plan = Desk.plan

    def careless(desk):
        for message in desk.state.log:
            len(message.content)
        plan(desk)

    monkeypatch.setattr(Desk, "plan", careless)
    found = [count.finding for count in guard.turns() if count.finding is not None]
    assert any("growth" in finding for finding in found)


def test_a_count_at_its_bound_is_allowed_and_one_above_is_told():
    """The bound itself is the most that is allowed."""
    assert guard.Count("calls", 5, 5).finding is None
    assert guard.Count("calls", 6, 5).finding == "calls: 6.00, above the bound of 5"
