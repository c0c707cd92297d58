"""Where figures come from: the commit, the day, and the machine that made them."""

import os
import platform
import subprocess
import time
from pathlib import Path


def commit() -> str | None:
    """The commit of the working copy that this library runs from, if it does.

    It ends in `-dirty` when files were changed since.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - nothing in it comes from outside
    except OSError:
        return None
    return asked.stdout.strip() or None


def origin() -> dict[str, str]:
    """What a reader needs to judge a figure, and to make it again."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {
        "commit": commit() or "unknown",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{os.cpu_count()} cores, {python}",
    }
