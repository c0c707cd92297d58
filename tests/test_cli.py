"""The command line as a user meets it: output, exit codes, one-line errors."""

import json
import signal
import sqlite3
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import closing, nullcontext
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agentloop.cli import parts, unattended
from agentloop.cli.app import app
from agentloop.cli.render import Progress
from agentloop.core.catalog import CATALOG
from agentloop.core.run import RunEvent, Scope
from agentloop.ports import ClaimRequest
from agentloop.runtime.face import AgentLoop
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fake_bedrock import FakeBedrock, calls, says
from agentloop.testing.fake_snowflake import FakeSnowflake, Rows, forbids, over_budget
from agentloop.testing.fake_snowflake import fails as cortex_fails
from agentloop.testing.fake_snowflake import says as cortex_says
from agentloop.testing.fake_snowflake.connections import loopback_options
from agentloop.wire.checkpoint import is_idle

CONFIG = {
    "system_prompt": "Be brief.",
    "defaults": {
        "model": "anthropic.claude-opus-4.6",
        "tools": [{"name": "confirm", "input_schema": {"type": "object"}}],
    },
}


class Desk:
    """A folder with a config, a script and a store, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = self.write("config.json", CONFIG)

    @property
    def store(self) -> str:
        return str(self.folder / "agents.db")

    def write(self, name: str, value: Any) -> str:
        (self.folder / name).write_text(json.dumps(value))
        return str(self.folder / name)

    def agentloop(self, *arguments: str, stdin: str = "") -> Any:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    def run(self, script: Any, *arguments: str, stdin: str = "") -> Any:
        file = self.write("script.json", script)
        store = ["--store", str(self.folder / "agents.db")]
        backend = ["--backend", f"script:{file}"]
        message = [self.config, "Hi", *store, *backend]
        return self.agentloop("run", *message, *arguments, stdin=stdin)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A fresh folder, and an environment without any AWS settings."""
    for name in (
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return Desk(tmp_path)


def test_the_demo_shows_every_way_a_run_goes(desk: Desk) -> None:
    """It pauses, waits out a throttle, completes, and another run fails well."""
    kept = str(desk.folder / "kept.db")
    done = desk.agentloop("demo", "--keep", kept)
    assert done.exit_code == 0, done.output
    for word in ("requires_action", "completed", "JobFailed", "throttled", "pending"):
        assert word in done.output
    assert Path(kept).exists()


def test_run_completes_and_exits_with_zero(desk: Desk) -> None:
    """The answer and the usage are the last lines."""
    done = desk.run([{"says": "Hello"}])
    assert done.exit_code == 0, done.output
    assert "completed after 1 iteration(s), 15 tokens" in done.output
    assert done.output.rstrip().endswith("Hello")


def test_run_asks_at_the_prompt_for_client_tools(desk: Desk) -> None:
    """The call is shown, the answer goes to the model, and the run goes on."""
    script = [
        {"calls": [{"name": "confirm", "arguments": {"slot": 9}}]},
        {"says": "ok"},
    ]
    done = desk.run(script, stdin='{"yes": true}\n')
    assert done.exit_code == 0, done.output
    assert '"slot": 9' in done.output


def test_run_leaves_a_pending_call_when_told_not_to_ask(desk: Desk) -> None:
    """Exit code 3 says that the run waits for the caller."""
    done = desk.run([{"calls": [{"name": "confirm"}]}], "--no-ask", "--json")
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["status"] == "requires_action"


def test_run_fails_with_one_and_says_why(desk: Desk) -> None:
    """The error's type and message are shown."""
    done = desk.run([{"fails": "denied", "text": "no access", "code": "AccessDenied"}])
    assert done.exit_code == 1
    assert "JobFailed AccessDenied: no access" in done.output


def test_run_takes_tools_from_a_module(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--tools ALIAS=module:name` registers a list of functions."""
    (desk.folder / "shop_tools.py").write_text(
        "def price(item: str) -> str:\n    '''Price.'''\n    return 'cheap ' + item\n"
        "tools = [price]\n"
    )
    monkeypatch.syspath_prepend(str(desk.folder))
    script = [
        {"calls": [{"name": "shop-price", "arguments": {"item": "tea"}}]},
        {"says": "ok"},
    ]
    done = desk.run(script, "--tools", "shop=shop_tools:tools")
    assert done.exit_code == 0, done.output
    assert "shop-price returned" in done.output


def test_run_speaks_to_bedrock_at_an_endpoint(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default backend is the real boto3, sent to another address on demand."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with FakeBedrock(calls(("confirm", {})), says("Done")) as bedrock:
        done = desk.agentloop(
            "run",
            desk.config,
            "Hi",
            "--store",
            "memory:",
            "--endpoint-url",
            bedrock.url,
            "--region",
            "us-east-1",
            stdin="yes\n",
        )
        assert done.exit_code == 0, done.output
        assert bedrock.inferences == 2


def test_show_and_messages_read_what_a_run_left(desk: Desk) -> None:
    """A run, its job and the conversation are there for another process."""
    ran = json.loads(desk.run([{"says": "Hello"}], "--json").stdout)
    store = ["--store", str(desk.folder / "agents.db")]
    assert json.loads(desk.agentloop("show", ran["id"], *store).stdout) == ran
    job = desk.agentloop("show", ran["submitted_inference_job_ids"][0], *store)
    assert json.loads(job.stdout)["status"] == "completed"
    listed = desk.agentloop("messages", ran["conversation_id"], *store)
    assert "Hello" in listed.output
    delta = desk.agentloop("messages", ran["conversation_id"], *store, "--json")
    assert json.loads(delta.stdout)["current_version"] == 2
    more = desk.run([{"says": "Again"}], "--conversation", ran["conversation_id"])
    assert more.exit_code == 0, more.output


ALONE = ("--store", "memory:", "--backend", "script:SCRIPT")
MISTAKES: dict[str, tuple[list[str], str]] = {
    "no config": (["run", "nowhere.json", "Hi"], "cannot read nowhere.json"),
    "no such store": (["messages", "x", "--store", "pg://x"], "unknown scheme"),
    "no such folder": (["messages", "x", "--store", "/none/x.db"], "no folder /none"),
    "no such run": (["show", "x", "--store", "memory:"], "not found"),
    "no such backend": (
        ["run", "CONFIG", "Hi", "--backend", "gpt", "--store", "memory:"],
        "--backend 'gpt' is unknown",
    ),
    "no such tools": (
        ["run", "CONFIG", "Hi", "--tools", "x", "--store", "memory:"],
        "--tools 'x' is not of the form",
    ),
    "no list of tools": (
        ["run", "CONFIG", "Hi", "--tools", "m=os:getcwd", *ALONE],
        "tools['m'] is one function; put it in a list",
    ),
    "no alias": (
        ["run", "CONFIG", "Hi", "--tools", "to-long=os:environ", *ALONE],
        "'to-long' is no alias",
    ),
    "a lease of nothing": (
        ["worker", "--lease", "0", *ALONE],
        "lease must be above 0 seconds, not 0",
    ),
    "no hands": (["worker", "--concurrency", "0"], "Invalid value for '--concurrency'"),
    "less than none": (
        ["serve", "--token", "a=1:1", "--concurrency", "-5"],
        "Invalid value for '--concurrency'",
    ),
    "no such error": (["errors", "Nope"], "no error is called 'Nope'; try: "),
    "almost an error": (["errors", "jobfaild"], "did you mean inference-job-failed?"),
    "a typo": (["show", "x", "--store", "typo.db"], "there is no such file"),
    "a typed URL": (
        ["messages", "x", "--store", "sqlite:///typo.db"],
        "--store 'typo.db': there is no such file; `agentloop run` makes one",
    ),
    "an empty store": (["show", "x", "--store", ""], "--store '' names no file"),
    "a folder": (["show", "x", "--store", "/"], "--store '/' names no file"),
    "a secret": (["show", "x", "--store", "pg://me:pw@h/db"], "--store 'pg://h/db'"),
    "doctor": (["doctor", "--backend", "x"], "nothing to examine"),
    "no endpoint": (
        ["run", "CONFIG", "Hi", "--store", "memory:", "--endpoint-url", "nonsense"],
        "endpoint_url must be such as https://HOST, not 'nonsense'",
    ),
    "no region": (
        ["run", "CONFIG", "Hi", "--store", "memory:", "--region", "bad region!"],
        "region must be such as us-east-1, not 'bad region!'",
    ),
    "a company beyond stores": (
        ["run", "CONFIG", "Hi", "--company", "9" * 30, "--store", "memory:"],
        "a scope's ids have 64 bits at most",
    ),
    "nothing said": (["run", "CONFIG", " \n"], "MESSAGE is blank"),
    "no message": (["run", "CONFIG"], "give a MESSAGE, or --conversation"),
    "an unknown conversation": (
        ["run", "-", "--conversation", "x", "--store", "memory:"],
        "Resource not found",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_two(
    desk: Desk, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the offending value; no traceback, no secret, no new file."""
    monkeypatch.chdir(desk.folder)
    arguments, words = MISTAKES[case]
    script = desk.write("script.json", [])
    places = {"CONFIG": desk.config, "script:SCRIPT": f"script:{script}"}
    done = desk.agentloop(*[places.get(a, a) for a in arguments])
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert "Traceback" not in done.output
    assert "pw" not in done.output
    assert not list(desk.folder.glob("typo*"))


CONFIG_FILES: dict[str, Any] = {
    'needs an object such as {"defaults": {"model": "..."}}': {"model": "x"},
    "needs an object such as": [1],
    "$.defaults.max_iterations must be": {
        "defaults": {"model": "x", "max_iterations": 0}
    },
}


@pytest.mark.parametrize("words", CONFIG_FILES)
def test_a_config_file_is_named_with_what_is_wrong(desk: Desk, words: str) -> None:
    """The line says which file, and what shape it should have."""
    desk.config = desk.write("agent.json", CONFIG_FILES[words])
    done = desk.run([])
    assert done.exit_code == 2, done.output
    assert f"agent.json: {words}" in done.output


MODULES = {
    "raises": ("raise RuntimeError('out\\nof order')", "RuntimeError: out of order"),
    "is no Python": ("def tools(:", "SyntaxError: "),
    "lacks the name": ("", "AttributeError: "),
}


@pytest.mark.parametrize("case", MODULES)
def test_a_module_of_tools_that_cannot_be_used_is_one_line(
    desk: Desk, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the user's module raises is told with the flag that named it."""
    monkeypatch.syspath_prepend(desk.folder)
    code, words = MODULES[case]
    name = f"agentloop_odd_{case.replace(' ', '_')}"
    (desk.folder / f"{name}.py").write_text(code)
    done = desk.run([], "--tools", f"a={name}:tools")
    assert done.exit_code == 2, done.output
    [line] = done.output.splitlines()
    assert f"--tools 'a={name}:tools': {words}" in line


def test_what_a_provider_says_is_no_markup(desk: Desk) -> None:
    """Brackets and colons of a refusal, an answer and a tool come out as they are."""
    odd = "no [/messages/0] of [user, assistant] :smile:"
    refusal = {"fails": "invalid_request", "text": odd, "code": "[/odd]"}
    refused = desk.run([refusal])
    assert refused.exit_code == 1, refused.output
    assert odd in " ".join(refused.output.split())
    answered = desk.run([{"says": odd}])
    assert answered.exit_code == 0, answered.output
    assert odd in answered.output
    conversation = answered.output.split()[1]
    read = desk.agentloop("messages", conversation, "--store", desk.store)
    assert odd in read.output
    shown = desk.run([{"says": odd}], "--conversation", conversation)
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"delay": 2.0, "at_least": 0.0}, "about 2 s"),
        ({"delay": 2.0, "at_least": 30.0}, "at least 30 s"),
        ({"delay": 2.0}, "about 2 s"),  # as an earlier release kept it
    ],
)
def test_a_wait_is_told_as_it_will_be(data: dict[str, float], words: str) -> None:
    """The provider's hint counts where it is longer than the schedule."""
    shown = Console(file=StringIO())
    Progress(shown).show(RunEvent("retry_wait", data))
    assert isinstance(shown.file, StringIO)
    assert f"waits     {words}, then tries again" in shown.file.getvalue()


def test_a_run_that_waits_is_answered_later(desk: Desk) -> None:
    """After exit code 3 the printed command asks for the answers, and goes on."""
    script = [{"calls": [{"name": "confirm"}]}, {"says": "ok"}]
    ended = desk.run(script, stdin="")  # the input ends at the prompt
    assert ended.exit_code == 3, ended.output
    command = ended.output.partition("To answer: ")[2].split()
    assert command[:4] == ["agentloop", "run", "-", "--conversation"]
    desk.write("script.json", script[1:])
    answered = desk.agentloop(*command[1:], stdin="\nyes\n")  # a blank is no answer
    assert answered.exit_code == 0, answered.output
    again = desk.agentloop(*command[1:])
    assert again.exit_code == 2, again.output
    assert "waits for no answer; give a MESSAGE" in again.output


def test_what_is_kept_in_memory_cannot_be_answered_later(desk: Desk) -> None:
    """No command is told that would find nothing."""
    script = [{"calls": [{"name": "confirm"}]}]
    ended = desk.run(script, "--no-ask", "--store", "memory:")
    assert ended.exit_code == 3, ended.output
    assert "waits for 1 answer. It is not kept" in ended.output


def test_ctrl_c_at_the_prompt_leaves_the_run_waiting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 130, and the line that says how to answer."""

    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("agentloop.cli.run._line", interrupted)
    done = desk.run([{"calls": [{"name": "confirm"}]}])
    assert done.exit_code == 130, done.output
    assert "waits for 1 answer. To answer: agentloop run - " in done.output
    assert "agentloop worker" not in done.output


def test_the_kept_demo_is_read_by_the_command_it_prints(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`demo --keep` ends with a whole command."""
    monkeypatch.chdir(desk.folder)
    told = desk.agentloop("demo", "--keep", "kept.db").output
    command = told.splitlines()[-1].partition("read it with: ")[2].split()
    read = desk.agentloop(*command[1:])
    assert read.exit_code == 0, read.output
    assert "Room 3 is booked" in read.output


def test_a_bad_script_names_its_place(desk: Desk) -> None:
    """A script file is checked like every other input."""
    done = desk.run([{"says": "x"}, {"shouts": "y"}])
    assert done.exit_code == 2
    assert "$[1]: needs exactly one of says, calls, fails" in done.output


def test_errors_prints_the_whole_catalog(desk: Desk) -> None:
    """Every slug is in the table, and each row can be asked for by type."""
    listed = desk.agentloop("errors")
    for row in CATALOG:
        assert row.slug in listed.output
    for name in ("AgentLoopCancelled", "agentloopcancelled", "CANCELLED"):
        assert "the run was cancelled" in desk.agentloop("errors", name).output


def test_the_version_is_told(desk: Desk) -> None:
    """That of the installed package, and nothing else."""
    told = desk.agentloop("--version")
    assert (told.exit_code, told.output) == (0, f"agentloop {version('agentloop')}\n")


@pytest.mark.parametrize("content", ["no database at all" * 100, "newer"])
def test_a_file_that_is_no_store_is_told(desk: Desk, content: str) -> None:
    """Whatever is in it stays as it is."""
    file = desk.folder / "odd.db"
    if content == "newer":
        with SQLiteStore(file):
            pass
        with closing(sqlite3.connect(file)) as db:
            db.execute("UPDATE schema_version SET version = 99")
            db.commit()
    else:
        file.write_text(content)
    done = desk.agentloop("show", "x", "--store", str(file))
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert "odd.db" in done.output


def test_doctor_sees_that_the_folder_of_a_store_is_missing(desk: Desk) -> None:
    """A first run would make the file, and never its folder."""
    file = str(desk.folder / "nope" / "nope.db")
    done = desk.agentloop("doctor", "--region", "x", "--store", file)
    assert done.exit_code == 1, done.output
    assert "there is no folder" in done.output
    assert "the first run makes it" not in done.output


WRONG_PLACES = {
    "endpoint_url must be such as": ["--endpoint-url", "nonsense"],
    "region must be such as": ["--region", "bad region!"],
    "could not be found": ["--region", "us-east-1"],
}


@pytest.mark.parametrize("words", WRONG_PLACES)
def test_doctor_says_in_a_line_what_aws_would_not_take(
    desk: Desk, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address, a region or a profile that is none ends in no traceback."""
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    done = desk.agentloop("doctor", *WRONG_PLACES[words])
    assert done.exit_code == 1, done.output
    assert words in done.output


def test_doctor_tells_time_outs_and_retries(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of our client, those of a plain one, and what the environment says."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    done = desk.agentloop("doctor", "--region", "us-east-1")
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert f"ok agentloop {version('agentloop')}" in told
    assert "builds a client with 1 attempt per call, time-outs of 10 s" in told
    assert "900 s to read, 32 connections" in told
    assert "a plain boto3 client given to BedrockBackend has 7 attempts" in told
    assert "AWS_MAX_ATTEMPTS=7 is set; a client that we build ignores it" in told


def test_doctor_makes_no_store(desk: Desk) -> None:
    """A file that is not there yet is a note, and is not there afterwards either."""
    file = desk.folder / "fresh.db"
    done = desk.agentloop("doctor", "--region", "x", "--store", str(file))
    assert "no such file yet" in done.output
    assert not file.exists()


def test_doctor_says_what_is_missing(desk: Desk) -> None:
    """Without credentials it exits with 1 and names them; secrets are not shown."""
    done = desk.agentloop("doctor", "--region", "us-east-1")
    assert done.exit_code == 1, done.output
    assert "no AWS credentials" in done.output


def test_doctor_is_content_with_a_sound_setting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With credentials and a region everything is ok, and no secret is printed."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACANARY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-canary")
    store = str(desk.folder / "agents.db")
    done = desk.agentloop("doctor", "--region", "us-east-1", "--store", store)
    assert done.exit_code == 0, done.output
    assert "region us-east-1" in done.output
    assert "canary" not in done.output.lower()


@pytest.fixture
def snowflake(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSnowflake]:
    """A loopback account, with the connector's options for it in a file."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeSnowflake() as account:
        desk.write("snowflake.json", loopback_options(account.port))
        yield account


def cortex(desk: Desk) -> list[str]:
    """The flag that names the loopback account."""
    return ["--backend", f"cortex:@{desk.folder / 'snowflake.json'}"]


def test_run_speaks_to_cortex(desk: Desk, snowflake: FakeSnowflake) -> None:
    """The connector logs in, and REST answers."""
    snowflake.script(cortex_says("Hello from Cortex"))
    config = {"defaults": {"model": "claude-sonnet-4-5"}}
    file = desk.write("cortex.json", config)
    done = desk.agentloop("run", file, "Hi", "--store", "memory:", *cortex(desk))
    assert done.exit_code == 0, done.output
    assert "Hello from Cortex" in done.output


def test_data_planes_have_backends_of_their_own(
    desk: Desk, snowflake: FakeSnowflake
) -> None:
    """One file names several; an unknown plane is refused before anything is spent."""
    snowflake.script(cortex_says("from Cortex"))
    plane = "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a11"
    script = desk.write("one.json", [{"says": "from the script"}])
    planes = {
        "default": f"script:{script}",
        "planes": {
            plane: {
                "kind": "cortex",
                "connection": f"@{desk.folder / 'snowflake.json'}",
            }
        },
    }
    file = desk.write("backends.json", planes)

    def say(data_plane: str | None) -> Any:
        defaults = {"model": "claude-sonnet-4-5", "data_plane_id": data_plane}
        config = desk.write("plane.json", {"defaults": defaults})
        flags = ["--store", "memory:", "--backends", file]
        return desk.agentloop("run", config, "Hi", *flags)

    assert "from the script" in say(None).output
    assert "from Cortex" in say(plane).output
    unknown = say("11111111-1111-4111-8111-111111111111")
    assert unknown.exit_code == 2
    assert "no backend is registered for data_plane_id" in unknown.output


CORTEX_FAULTS = {
    "role": (forbids(), "default role needs SNOWFLAKE.CORTEX_USER"),
    "model": (cortex_fails(400, 'unknown model "x"'), "check the model's name"),
    "region": (cortex_fails(400, 'unknown model "x"'), "CORTEX_ENABLED_CROSS_REGION"),
    "token": (cortex_fails(401, "JWT is invalid", code="390144"), "token is not valid"),
    "budget": (over_budget(), "budget is spent"),
}


def wrong_lines(output: str) -> list[str]:
    """What a doctor found wrong."""
    return [line for line in output.splitlines() if line.startswith("wrong")]


@pytest.mark.parametrize("case", CORTEX_FAULTS)
def test_doctor_asks_a_model_of_cortex(
    desk: Desk, snowflake: FakeSnowflake, case: str
) -> None:
    """Role, region, model, token and budget are told in one line each."""
    fault, words = CORTEX_FAULTS[case]
    snowflake.script(fault)
    asked = [*cortex(desk), "--model", "claude-sonnet-4-5"]
    done = desk.agentloop("doctor", *asked)
    assert done.exit_code == 1, done.output
    (line,) = wrong_lines(done.output)
    assert words in line


def test_doctor_finds_cortex_sound(desk: Desk, snowflake: FakeSnowflake) -> None:
    """Who is let in, with which role, and where, is told without asking a model."""
    done = desk.agentloop("doctor", *cortex(desk))
    assert done.exit_code == 0, done.output
    for words in ("lets AGENT in", "session role AGENT_ROLE", "region AWS_US_WEST_2"):
        assert words in done.output


def shown(value: str) -> Rows:
    """How Snowflake shows an account's parameter."""
    return Rows(("key", "value"), (("CORTEX_ENABLED_CROSS_REGION", value),))


TAUGHT = {
    "role": ("is_database_role", Rows(("A", "B"), (("FALSE", "FALSE"),)), 1),
    "rest role": ("is_database_role", Rows(("A", "B"), (("FALSE", "TRUE"),)), 0),
    "region": ("show parameters", shown("DISABLED"), 0),
    "anywhere": ("show parameters", shown("ANY_REGION"), 0),
}
TOLD = {
    "role": "grant database role SNOWFLAKE.CORTEX_USER to role AGENT_ROLE",
    "rest role": "session role AGENT_ROLE",
    "region": "models of others are unknown; see CORTEX_ENABLED_CROSS_REGION",
    "anywhere": "cross-region inference ANY_REGION",
}


@pytest.mark.parametrize("case", TAUGHT)
def test_doctor_judges_role_and_region(
    desk: Desk, snowflake: FakeSnowflake, case: str
) -> None:
    """A role without the right, and a region on its own, need no model to be seen."""
    statement, rows, code = TAUGHT[case]
    snowflake.on_sql(statement, rows)
    done = desk.agentloop("doctor", *cortex(desk))
    assert done.exit_code == code, done.output
    assert TOLD[case] in done.output


@pytest.mark.parametrize(
    ("statement", "code", "words"),
    [
        ("current_user", 1, "session: cortex answered 390114"),
        ("sys_context", 0, "what it may do was not told"),
        ("show parameters", 0, "region AWS_US_WEST_2"),
    ],
)
def test_doctor_is_told_nothing(
    desk: Desk, snowflake: FakeSnowflake, statement: str, code: int, words: str
) -> None:
    """A statement that fails is a line, and never a traceback."""
    snowflake.fail_sql(statement, 390114)
    done = desk.agentloop("doctor", *cortex(desk))
    assert done.exit_code == code, done.output
    assert words in done.output


@pytest.mark.parametrize("errno", [390100, 390144, 390318])
def test_doctor_reports_a_refused_login(
    desk: Desk, snowflake: FakeSnowflake, errno: int
) -> None:
    """A login that is refused is a finding like others, about the token."""
    snowflake.refuse_logins(errno)
    done = desk.agentloop("doctor", *cortex(desk))
    assert done.exit_code == 1, done.output
    (line,) = wrong_lines(done.output)
    assert str(errno) in line
    assert "token is not valid" in line


@pytest.mark.parametrize("options", [{"account": 5}, {"user": 7, "port": "abc"}])
def test_options_of_another_type(desk: Desk, options: dict[str, Any]) -> None:
    """Options that the connector cannot take end the command with one line."""
    file = desk.write("odd.json", {"host": "127.0.0.1", **options})
    done = desk.agentloop("doctor", "--backend", f"cortex:@{file}")
    assert done.exit_code in {1, 2}, done.output
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("command", ["demo", "run", "show", "messages", "doctor"])
def test_every_command_explains_itself(desk: Desk, command: str) -> None:
    """`--help` ends well."""
    assert desk.agentloop(command, "--help").exit_code == 0


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_gives_the_run_back_and_says_how_to_go_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call under way is waited for, and what it returned is kept with the run."""
    here, closing, close = threading.get_ident(), threading.Event(), AgentLoop.close

    def nap() -> str:
        """Sleep."""
        signal.pthread_kill(here, signal.SIGINT)
        assert closing.wait(30)
        return "slept"

    def close_and_tell(loop: AgentLoop) -> None:
        closing.set()
        close(loop)

    monkeypatch.setattr(AgentLoop, "close", close_and_tell)
    module = types.ModuleType("agentloop_test_naps")
    module.TOOLS = [nap]  # type: ignore[attr-defined] # as a user's module has it
    monkeypatch.setitem(sys.modules, module.__name__, module)
    script = [{"calls": [{"name": "m-nap", "arguments": {}}]}, {"says": "Rested"}]
    done = desk.run(script, "--tools", f"m={module.__name__}:TOOLS")
    assert done.exit_code == 130, done.output
    store = str(desk.folder / "agents.db")
    assert f"To go on: agentloop worker --store {store}" in done.output
    with SQLiteStore(store) as kept:
        claim = kept.claim(ClaimRequest(driver="embedded", lease_seconds=1))
    assert claim is not None
    assert is_idle(claim.header or "")
    assert "slept" in claim.messages[-1]


class Silent(MemoryStore):
    """A store that does not answer before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def ping(self) -> None:
        """Wait."""
        self.answers.wait()


def test_a_store_that_says_nothing_holds_up_no_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What serves listens all the same, and tells itself that it has no store."""
    store, script = Silent(), tmp_path / "script.json"
    script.write_text("[]")
    monkeypatch.setattr(unattended, "PATIENCE", 0.05)
    monkeypatch.setattr(parts, "open_store", lambda url: nullcontext(store))
    model = unattended.Model(f"script:{script}", None, None, None, 1)
    bounds = unattended.Bounds(1.0, 1.0, 1.0, 1.0)
    wanted = unattended.Wanted("silent", model, None, False, bounds)
    with wanted.loop(AgentLoop) as loop, loop:
        assert loop.list_conversations(scope=Scope(1, 1)).records == ()
        assert not store.answers.is_set()
    store.answers.set()
