"""What a host says about models, looked at when a backend is made.

A wrong part would otherwise raise from deep inside of the first run, or count as a
fault of the model. Each check names the argument, says what was given by its type,
which can hold no secret, and what to give instead.
"""

from collections.abc import Mapping
from typing import Any

from attrs import fields


def refuse(argument: str, wanted: str, given: object) -> TypeError:
    """The error for an argument of the wrong kind."""
    kind = given.__name__ if isinstance(given, type) else type(given).__name__
    what = f"the class {kind} itself" if isinstance(given, type) else f"a {kind}"
    return TypeError(f"{argument} must be {wanted}, not {what}")


def check_model_ids(value: object) -> None:
    """That names can be looked up in it, by name or by asking.

    Raises:
        TypeError: they cannot.
    """
    _check_table("model_ids", value, "the provider's ids", str)


def check_capabilities(value: object, kind: type) -> None:
    """That it has or gives records of a kind.

    Raises:
        TypeError: it does not.
    """
    _check_table("capabilities", value, "Capabilities", kind)


def check_found(argument: str, value: Any, kind: type) -> Any:
    """What a host's own function returned, if it is of the kind.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        raise refuse(f"what {argument} returns", f"of {kind.__name__}", value)
    return value


def _check_table(argument: str, value: object, of: str, kind: type) -> None:
    if value is None or (callable(value) and not isinstance(value, type)):
        return
    if not isinstance(value, Mapping):
        raise refuse(argument, f"{of} by model name, or a function", value)
    for name, one in value.items():
        _check_entry(argument, name, one, kind)


def check_options(value: object, kind: type, kinds: Mapping[str, type]) -> None:
    """That it has options by model name, and that their fields are of their kinds.

    Args:
        value: what the host gave as `options`.
        kind: the backend's class of options.
        kinds: what the fields of that class hold, beside None.

    Raises:
        TypeError: something is not.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise refuse("options", f"{kind.__name__} by model name", value)
    for name, options in value.items():
        _check_entry("options", name, options, kind)
        for field in fields(kind):
            found = getattr(options, field.name)
            if found is not None and not isinstance(found, kinds[field.name]):
                place = f"options[{name!r}].{field.name}"
                raise refuse(place, f"of {_named(kinds[field.name])}", found)


def _check_entry(argument: str, name: object, value: object, kind: type) -> None:
    if not isinstance(name, str):
        raise refuse(f"a model's name in {argument}", "text", name)
    if isinstance(value, kind):
        return
    hint = f": {kind.__name__}(...)" if isinstance(value, Mapping) else ""
    place = f"{argument}[{name!r}]"
    raise TypeError(f"{refuse(place, f'of {kind.__name__}', value)}{hint}")


def check_texts(argument: str, values: Mapping[Any, Any]) -> None:
    """That keys and values of a mapping are texts.

    Raises:
        TypeError: one is not.
    """
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str):
            wrong = value if isinstance(key, str) else key
            raise refuse(f"{argument}[{key!r}]", "text by text", wrong)


def _named(kind: Any) -> str:
    names = getattr(kind, "__args__", (kind,))
    return " or ".join(name.__name__ for name in names)
