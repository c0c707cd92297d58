"""`agentloop errors`: the catalog, printed from the table the library uses."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agentloop.cli import parts
from agentloop.core.catalog import BY_SLUG, BY_TYPE, CATALOG, DOCS_BASE, Incident


def errors(
    name: Annotated[
        str | None,
        typer.Argument(help="One error, by its type or slug; case does not matter."),
    ] = None,
) -> None:
    """Explain the ways a request is refused and a run fails."""
    if name is None:
        Console(width=120).print(_table())
        return
    rows = {key.lower(): row for key, row in {**BY_TYPE, **BY_SLUG}.items()}
    row = rows.get(name.strip().lower())
    if row is None:
        parts.stop(f"no error is called {name!r}; {_way_out(name, rows)}")
    for line in _explained(row):
        typer.echo(line)


def _way_out(name: str, rows: Mapping[str, Incident]) -> str:
    near = get_close_matches(name.lower(), rows, 3, 0.5)
    slugs = dict.fromkeys(rows[one].slug for one in near)
    if not slugs:
        return "try: agentloop errors"
    return f"did you mean {' or '.join(slugs)}?"


def _table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("slug", "http", "run error", "retried"):
        table.add_column(heading, no_wrap=True)
    for row in CATALOG:
        table.add_row(
            row.slug,
            str(row.status or ""),
            row.type or "",
            "yes" if row.retried else "",
        )
    return table


def _explained(row: Incident) -> list[str]:
    lines = [row.title, f"  {DOCS_BASE}{row.slug}"]
    if row.status is not None:
        lines.append(f"  HTTP {row.status}: {row.detail}")
    if row.type is not None:
        lines.append(f"  run error {row.type}: {row.message}")
    if row.retried:
        lines.append("  the loop tries again by itself before a run ends with it")
    return lines
