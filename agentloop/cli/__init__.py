"""The command line: `agentloop`.

Each command is a module of its own that says what it does and what it exits with.
Typer and Rich come with the extra `cli` and are imported only here.
"""

import sys


def main() -> None:
    """Run the command line; a missing extra is one clear line, no traceback."""
    from agentloop.ports import MissingExtraError, require

    try:
        require("typer", "cli")
        require("rich", "cli")
        from agentloop.cli.app import app

        app()
    except MissingExtraError as error:
        sys.exit(f"agentloop: {error}")
