"""The `@tool` decorator: a function with what is said of it, still callable.

Decorating looks at the signature, to refuse early what cannot be a tool, and does
nothing else: hints are read and schemas are built when a server takes the tool.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Final, Generic, ParamSpec, TypeVar, get_args, overload

from attrs import fields_dict, frozen

from agentloop.core.routing import InDoubt
from agentloop.tools.signatures import check_signature

P = ParamSpec("P")
R = TypeVar("R")


_POLICIES: Final = get_args(InDoubt)
_KINDS: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "name": ("a text", (str, NoneType)),
    "description": ("a text", (str, NoneType)),
    "timeout": ("a number of seconds", (int, float, NoneType)),
    "repeatable": ("True or False", (bool,)),
    "in_doubt": ("a word", (str, NoneType)),
    "inline": ("True or False", (bool,)),
    "max_bytes": ("a whole number", (int, NoneType)),
}


def _check_kind(name: str, value: object, words: str, kinds: tuple[type, ...]) -> None:
    is_odd = isinstance(value, bool) and bool not in kinds  # which is an int as well
    if is_odd or not isinstance(value, kinds):
        raise TypeError(f"{name} must be {words}, not {value!r:.60}")


@frozen(kw_only=True)
class ToolOptions:
    """What can be said of a tool beyond its signature.

    Attributes:
        name: under which the model sees it; the function's by default.
        description: for the model; the docstring up to its first section by default.
        timeout: seconds after which the model is told that it took too long.
        repeatable: whether running it twice does no harm.
        in_doubt: what to do when a worker died while it may have been running;
            by default repeat what is repeatable and tell the model otherwise.
        inline: run it on the calling thread, even on an event loop; for functions
            that are quick and never wait.
        max_bytes: cap on its result as JSON text; the server's by default.
    """

    name: str | None = None
    description: str | None = None
    timeout: float | None = None
    repeatable: bool = False
    in_doubt: InDoubt | None = None
    inline: bool = False
    max_bytes: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, kind in _KINDS.items():
            _check_kind(name, getattr(self, name), *kind)
        if self.in_doubt not in {None, *_POLICIES}:
            known = ", ".join(_POLICIES)
            raise ValueError(f"in_doubt must be one of {known}, not {self.in_doubt!r}")
        for name in ("timeout", "max_bytes"):
            amount = getattr(self, name)
            if amount is not None and not amount > 0:  # also when it is not a number
                raise ValueError(f"{name} must be above 0, not {amount!r}")
        if self.inline and self.timeout is not None:
            raise ValueError(
                f"inline and timeout={self.timeout} exclude each other: "
                "what runs inline cannot be left behind"
            )
        if self.repeatable and self.in_doubt in {"tell", "fail"}:
            raise ValueError(
                f"repeatable=True means in_doubt='repeat', not '{self.in_doubt}'"
            )

    @property
    def policy(self) -> InDoubt:
        """What to do about a call whose outcome is unknown."""
        return self.in_doubt or ("repeat" if self.repeatable else "tell")


class Tool(Generic[P, R]):
    """A function with what `@tool` says of it; calling it calls the function."""

    def __init__(self, function: Callable[P, R], options: ToolOptions) -> None:
        check_signature(function)
        if options.inline and inspect.iscoroutinefunction(function):
            raise TypeError(
                f"{function.__name__} is async and runs on a loop; drop inline=True"
            )
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function, unchecked."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.options.name or self.function.__name__})"


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    repeatable: bool = False,
    in_doubt: InDoubt | None = None,
    inline: bool = False,
    max_bytes: int | None = None,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    **options: object,
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a function a tool: `@tool`, or `@tool(timeout=5.0)` with options.

    Name, description and JSON Schema come from the function's name, docstring and
    type hints. The options are the attributes of `ToolOptions`. A parameter with
    the hint `ToolContext` is filled in by us and not shown to the model.

    Raises:
        TypeError: the signature cannot be a tool's; says which parameter and why. Or
            an option that does not exist, or whose value is of another kind.
        ValueError: a value that an option cannot have, or options that exclude each
            other.
    """
    known = fields_dict(ToolOptions)
    for name in options:
        if name not in known:
            raise TypeError(
                f"@tool has no option named {name!r}; it has {', '.join(known)}"
            )
    chosen = ToolOptions(**options)  # type: ignore[arg-type] # typed by the overload
    if function is not None:
        return Tool(function, chosen)
    return lambda function: Tool(function, chosen)
