"""Factories by their name: `module:name`, also from the working directory."""

import sys
from importlib import import_module

from agentloop.testing.conformance.subject import Factory


def imported(place: str) -> Factory:
    """The factory that a place names.

    Raises:
        ValueError: the place is not of the form `module:name`.
        TypeError: it names nothing that can be called.
        ImportError: the module cannot be imported.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{place!r} is not of the form module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: Factory | None = getattr(import_module(module), name, None)
    if not callable(found):
        raise TypeError(f"{place!r} names nothing that can be called")
    return found
