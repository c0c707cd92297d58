"""The other line of the Snowflake connector, in an environment of its own.

The connector has two lines that cannot stand side by side: 4.x in Python, 5.x around
a core in Rust. This builds an environment with the line that is not installed here,
out of what the project itself declares, and runs there every test that meets the
connector. It is kept in pytest's cache, so only the first run pays for it;
`--cache-clear` throws it away. Where it cannot be built, the tests fail and say why.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "test_cortex_backend": "",
    "test_cortex_calls": "",
    "test_cortex_rest": "",
    "test_cortex_runs": "",
    "test_cortex_serve": "",
    "test_cortex_sql": "",
    "test_parity": "",
    "test_fake_snowflake": "",
    "test_fake_snowflake_rest": "connector or for_ever",
    "test_cli": "cortex or data_planes or role_and_region or told_nothing or login "
    "or another_type",
}
"""Every module that meets the connector, and which of its tests do; all, if none."""

TOOLS = ("pytest>", "pytest-asyncio", "pytest-timeout", "hypothesis", "httpx>")
HERE = int(version("snowflake-connector-python").partition(".")[0])
THERE, PIN = (4, "<5") if HERE >= 5 else (5, ">=5")


def requirements() -> list[str]:
    """What the modules need, as the project declares it, with the other line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = list(project["dependencies"])
    for extra in ("tools", "bedrock", "cortex", "http", "cli"):
        found += [name for name in extras[extra] if not name.startswith("agentloop")]
    found += [name for name in extras["dev"] if name.startswith(TOOLS)]
    return [*found, f"snowflake-connector-python{PIN}"]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other test sessions out while an environment is built."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built(folder: Path) -> Path:
    """The Python of the environment in a folder, built unless it is there."""
    wanted = json.dumps([sys.version, str(ROOT), requirements()])
    marker, python = folder / "built.json", folder / "bin" / "python"
    with alone(folder):
        if marker.is_file() and marker.read_text() == wanted:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        done([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q"]
        done([*pip, "install", *requirements()])
        # Commands tell the version of what is installed.
        done([*pip, "install", "--no-deps", "-e", str(ROOT)])
        marker.write_text(wanted)
    return python


def done(command: list[str]) -> None:
    """Run a command that has to succeed."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        shown = f"{found.stdout}\n{found.stderr}"[-4000:]
        pytest.fail(f"connector {THERE}.x: {' '.join(command)} failed:\n{shown}")


@pytest.fixture(scope="module")
def other_python(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The Python of an environment with the other line."""
    cache = getattr(request.config, "cache", None)
    if cache is None:
        folder = tmp_path_factory.mktemp("lines") / f"connector-{THERE}"
    else:
        folder = cache.mkdir("connector-lines") / f"connector-{THERE}"
    return built(folder)


@pytest.mark.timeout(900)
def test_the_other_line_is_another(other_python: Path) -> None:
    """The environment holds the line of the connector that is not installed here."""
    code = "from importlib.metadata import version as v; print(v('{}'))"
    name = "snowflake-connector-python"
    found = subprocess.run(
        [str(other_python), "-c", code.format(name)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout.partition(".")[0]) == THERE
    assert {HERE >= 5, THERE >= 5} == {True, False}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", MODULES)
def test_on_the_other_line(
    module: str, other_python: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Every test that meets the connector passes with its other line as well."""
    report = tmp_path / "report.xml"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    ran = subprocess.run(
        [
            *(str(other_python), "-m", "pytest", f"tests/{module}.py"),
            *("-q", "-p", "no:cacheprovider", f"--junitxml={report}"),
            *("-k", MODULES[module]),
        ],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.is_file(), f"{ran.stdout}\n{ran.stderr}"[-4000:]
    cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        with subtests.test(msg=f"connector {THERE}.x: {case.get('name')}"):
            problems = [part.get("message") for part in case]
            assert problems == []
    assert cases
    assert ran.returncode == 0, ran.stdout[-4000:]
