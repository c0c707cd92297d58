"""Where figures come from: the commit, the day, and the machine that made them."""

import os
import platform
import subprocess
import time
from pathlib import Path


def commit() -> str | None:
    """The commit of the working copy that this library runs from, if it does.

    It ends in `-dirty` when a module was changed since.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    hash_ = _git(root, "rev-parse", "--short", "HEAD")
    changed = _git(root, "diff", "--name-only", "HEAD", "--", "*.py")
    return f"{hash_}-dirty" if hash_ and changed else hash_


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
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
