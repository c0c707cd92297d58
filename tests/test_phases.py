"""The vocabulary of the machine: values, and the log that is shared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentloop.core.content import Message, Text
from agentloop.core.phases import Log, Plan
from agentloop.core.run import Usage
from tests.samples import begin, reply, uses


def message(n: int) -> Message:
    """A message that differs from all others."""
    return Message("user", (Text(str(n)),))


FIRST, SECOND, THIRD = message(1), message(2), message(3)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), max_size=30))
def test_a_log_is_a_value_however_it_is_shared(appends):
    """Appending to any earlier view never shows in another."""
    views, models = [Log()], [[]]
    for number, (index, count) in enumerate(appends):
        chosen = index % len(views)
        new = [message(100 * number + i) for i in range(count)]
        views.append(views[chosen].append(*new))
        models.append(models[chosen] + new)
    for view, model in zip(views, models, strict=True):
        assert list(view) == model
        assert len(view) == len(model)
        assert view == Log(*model)


def test_appending_to_the_newest_view_shares_the_list():
    """A long run costs no copy for each of its messages."""
    log = Log(FIRST)
    longer = log.append(SECOND)
    assert longer._items is log._items
    branch = log.append(THIRD)
    assert branch._items is not log._items
    assert list(log) == [FIRST]


@pytest.mark.parametrize("index", [0, 1, -1, -2])
def test_a_log_is_read_by_position(index):
    """From the front and from the back, within the view."""
    log = Log(FIRST, SECOND)
    log.append(THIRD)
    assert log[index] == [FIRST, SECOND][index]


@pytest.mark.parametrize("index", [2, -3])
def test_a_log_ends_where_its_view_ends(index):
    """What was appended to a newer view is out of reach."""
    log = Log(FIRST, SECOND)
    log.append(THIRD)
    with pytest.raises(IndexError):
        log[index]


def test_a_log_tells_what_is_new():
    """A checkpoint asks for the messages since the last one."""
    log = Log(FIRST, SECOND, THIRD)
    assert log.since(1) == [SECOND, THIRD]
    assert log.since(3) == []


def test_a_log_compares_by_content():
    """Another list of the same messages is equal, anything else is not."""
    assert Log(FIRST) == Log(FIRST)
    assert Log(FIRST) != Log(SECOND)
    assert Log(FIRST) != [FIRST]
    with pytest.raises(TypeError):
        hash(Log(FIRST))


def test_a_log_shows_its_length_and_not_its_messages():
    """What people said does not end up in a traceback."""
    assert repr(Log(FIRST, SECOND)) == "Log(<2 messages>)"
    assert "room" not in repr(begin())


def test_the_plan_has_the_documented_defaults():
    """Five attempts, 1-2-4-8 seconds, and parity for what cannot be called."""
    plan = Plan(max_iterations=8)
    assert (plan.attempts, plan.delays) == (5, (1.0, 2.0, 4.0, 8.0))
    assert (plan.on_unresolved_call, plan.on_invalid_arguments) == ("fail", "fail")
    assert plan.parallel == 8


def test_a_new_state_has_cost_nothing():
    """Usage begins at zero, iterations at the first."""
    state = begin()
    assert (state.usage, state.iterations) == (Usage(), 1)
    assert reply(state, *uses("docs-search")).iterations == 1
