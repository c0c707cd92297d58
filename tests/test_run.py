"""The run resource: statuses, and usage as an algebra."""

from typing import get_args

import pytest
from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from agentloop.core.config import Config
from agentloop.core.run import TERMINAL, Run, Status, Usage
from tests import strategies as some


@given(st.lists(st.none() | some.usages()))
def test_usage_is_the_sum_over_attempts(attempts):
    """Every field adds up, and an attempt that told nothing is counted as such."""
    total = Usage()
    for attempt in attempts:
        total = total.plus(attempt)
    told = [attempt for attempt in attempts if attempt is not None]
    for field in fields(Usage):
        wanted = sum(getattr(usage, field.name) for usage in told)
        if field.name == "attempts_without_usage":
            wanted += len(attempts) - len(told)
        assert getattr(total, field.name) == wanted
    assert total.total_tokens == total.prompt_tokens + total.completion_tokens


@given(some.usages(), some.usages(), some.usages())
def test_the_order_of_attempts_does_not_matter(a, b, c):
    """Sums commute and associate, and nothing is nothing."""
    assert a.plus(b).plus(c) == c.plus(b.plus(a))
    assert a.plus(Usage()) == a == Usage().plus(a)


def test_cache_tokens_are_part_of_the_prompt_already():
    """Reads and writes of a cache are told apart, not added once more."""
    usage = Usage(prompt_tokens=10, cache_read_tokens=6, cache_write_tokens=3)
    assert usage.total_tokens == 10


@pytest.mark.parametrize("status", get_args(Status))
def test_three_of_five_statuses_are_terminal(status):
    """Pausing for the caller ends a run as much as an answer or an error."""
    run = Run(
        id="r",
        conversation_id="c",
        company_id=1,
        user_id=2,
        client_op_id="o",
        status=status,
        effective_config=Config(model="m"),
        started_at="2026-06-01T08:00:00.000000Z",
    )
    assert run.terminal == (status in {"completed", "requires_action", "failed"})
    assert run.terminal == (status in TERMINAL)
