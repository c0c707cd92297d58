"""How the values of the hot path are declared."""

from attrs import evolve

from agentloop.core.values import value


@value
class Point:
    x: int
    y: int = 0


@value(kw_only=True)
class Named:
    name: str


def test_values_are_compared_and_hashed_by_their_fields():
    """Two of the same fields are one key; a value of another class never equals."""
    assert Point(1) == Point(1, 0)
    assert len({Point(1), Point(1, 0), Point(2)}) == 2
    assert Named(name="a") != Point(1)


def test_a_changed_value_is_another_one():
    """What was given away stays as it was."""
    before = Point(1, 2)
    assert evolve(before, y=3) == Point(1, 3)
    assert before == Point(1, 2)


def test_values_hold_nothing_but_their_fields():
    """There is no room for what somebody else would put into one."""
    assert not hasattr(Point(1), "__dict__")
