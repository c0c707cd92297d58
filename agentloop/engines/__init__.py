"""Execution engines that drive runs beyond one process, each behind an extra.

An engine module maps the recipe of `agentloop.runtime.rounds` onto one engine. It
must hold no rule of a run: those are in the core, and what is durable about a run is
in the store. Adapters that a host does not use are never imported.
"""
