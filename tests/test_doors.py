"""What a loop is made of and called with, when it is something else."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop, AsyncAgentLoop, RequestError, Text
from agentloop.backends.bedrock import BedrockBackend
from agentloop.backends.cortex import CortexBackend
from agentloop.core.config import Config, ToolSpec
from agentloop.core.request import UserMessage
from agentloop.stores.memory import MemoryStore
from agentloop.stores.postgres import PostgresStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fake_bedrock import FakeBedrock
from agentloop.testing.fake_bedrock import calls as bedrock_calls
from agentloop.testing.fake_bedrock import says as bedrock_says
from agentloop.testing.fake_snowflake import FakeSnowflake
from agentloop.testing.fake_snowflake import calls as cortex_calls
from agentloop.testing.fake_snowflake import says as cortex_says
from agentloop.testing.scripted import (
    ScriptedBackend,
    ScriptError,
    calls,
    says,
    script_from,
)
from agentloop.wire import WireError
from tests.faces import DEFAULTS, FACES, SCOPE, Rooms, both_faces


class Client:
    """As boto3 makes one."""

    def converse(self, **_: Any) -> None:
        return None


class Connection:
    """As Snowflake's connector makes one."""

    def cursor(self) -> None:
        return None


class Half:
    """A backend that somebody is still writing."""

    name = "half"

    def session(self, _: Any) -> None:
        return None


WRONG = (TypeError, ValueError)


async def watch(run_id: str, event: Any) -> None:
    """An observer that nobody would await."""


class Watcher:
    """The same, as an object."""

    async def __call__(self, run_id: str, event: Any) -> None: ...


def plain(text: str) -> str:
    """Say it again."""
    return text


def backend() -> ScriptedBackend:
    """Any backend that is one."""
    return ScriptedBackend(says("done"))


PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "a client": ({"backend": Client()}, r"wrap it: BedrockBackend\(client\)"),
    "a connection": ({"backend": Connection()}, r"wrap it: CortexBackend\("),
    "a word": ({"backend": "bedrock"}, "backend= must be a backend, not 'bedrock'"),
    "a class": ({"backend": ScriptedBackend}, r"make one: ScriptedBackend\("),
    "a half": ({"backend": Half()}, "it lacks check"),
    "a table": ({"backend": {"p": backend()}}, "are given as backends="),
    "planes in a list": ({"backends": [backend()]}, "backends= must be backends by"),
    "a plane": ({"backends": {"p": Client()}}, r"backends\['p'\] must be a backend"),
    "a number of a plane": ({"backends": {7: backend()}}, "which is text, not 7"),
    "one for many": ({"backends": backend()}, "give it as backend="),
    "a path": ({"store": "agents.db"}, r"not 'agents.db'; wrap it: SQLiteStore\("),
    "a Path": ({"store": Path("a.db")}, r"wrap it: SQLiteStore\(path\)"),
    "a database": ({"store": sqlite3.Connection}, "the class Connection itself"),
    "a dict": ({"store": {}}, "it lacks create_conversation"),
    "a store's class": ({"store": MemoryStore}, r"make one: MemoryStore\("),
    "tools in a list": ({"tools": [plain]}, "tools= must be by alias"),
    "one tool": ({"tools": {"m": plain}}, "put it in a list"),
    "a tool's name": ({"tools": {"m": "plain"}}, "a list of functions or a tool"),
    "tools by name": ({"tools": {"m": {"plain": plain}}}, "a list of functions or"),
    "no tool": ({"tools": {"m": [7]}}, "7 is no function; wrap it in a def"),
    "a server's class": ({"tools": {"m": Rooms}}, r"tools\['m'\] .* the class Rooms"),
    "an address": ({"mcp": {"url": "x"}}, "named in a config's mcp_servers"),
    "an observer": ({"observer": "log"}, "observer= must be a function, not 'log'"),
    "an async observer": ({"observer": watch}, "an async one is never awaited"),
    "an async object": ({"observer": Watcher()}, "an async one is never awaited"),
    "ids": ({"ids": iter("ab")}, r"ids= must have new\(\)"),
    "a clock": ({"clock": 5}, r"clock= must have now\(\), monotonic\(\); 5 is none"),
    "an engine": ({"engine": "temporal"}, r"engine= must have start\(\), cancel\(\)"),
    "a typo": ({"run_timeot": 5}, "named 'run_timeot'; did you mean run_timeout?"),
    "a stranger": ({"wibble": 5}, "there is no option named 'wibble'; known: "),
    "limits": ({"limits": 5}, "limits must be an agentloop.wire.Limits"),
    "a pause": ({"pause": 1.0}, "pause= must be a function"),
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("face", [AgentLoop, AsyncAgentLoop])
def test_a_wrong_part_is_told_when_the_loop_is_made(face: Any, case: str) -> None:
    """Each face names the argument, what was given, and what to give instead."""
    wrong, words = PARTS[case]
    with pytest.raises(TypeError, match=words):
        face(**{"backend": backend(), **wrong})


VALUES: dict[str, tuple[Any, str]] = {
    "attempts": ("5", "must be a whole number, not '5'"),
    "parallel_tools": (2.0, "must be a whole number, not 2.0"),
    "tool_slots": (True, "must be a whole number, not True"),
    "in_flight": (None, "must be a whole number, not None"),
    "run_timeout": ("30s", "must be a number of seconds, not '30s'"),
    "attempt_timeout": (float("inf"), "must be a number of seconds, not inf"),
    "lease": (None, "must be a number of seconds, not None"),
    "tool_timeout": (float("nan"), "must be a number of seconds, not nan"),
    "discovery_timeout": (-1, "must be above 0 seconds, not -1"),
    "delays": (1.0, "must be a row of seconds"),
    "docs_base": ("https://x.example/errors", "must be a URL that ends with a slash"),
    "visibility": (["user"], "must be one of company, user"),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_option_of_the_wrong_kind_is_told(name: str) -> None:
    """Text is no number, and nothing that would fail later is taken."""
    value, words = VALUES[name]
    with pytest.raises(WRONG, match=f"{name} {words}"):
        AgentLoop(backend(), **{name: value})


@pytest.mark.parametrize("delays", [(-1.0,), ("1",), (float("inf"),)])
def test_every_delay_is_a_span(delays: Any) -> None:
    """One wrong delay would end a run at its first retry."""
    with pytest.raises(WRONG, match="each of delays must be"):
        AgentLoop(backend(), delays=delays)


def test_delays_may_come_in_a_list() -> None:
    """And none of them need pass any time."""
    with AgentLoop(backend(), delays=[0, 1]) as loop:
        assert loop.watch.options.delays == (0, 1)


@pytest.mark.parametrize("secret", ["postgres://me:pw@host", "key=pw", "p" * 20])
@pytest.mark.parametrize("argument", ["backend", "store", "observer"])
def test_what_may_hold_a_secret_is_told_by_its_type(argument: str, secret: str) -> None:
    """An error is logged, so it shows no address and no key."""
    with pytest.raises(TypeError, match="not a str") as caught:
        AgentLoop(**{"backend": backend(), argument: secret})  # type: ignore[arg-type]
    assert secret not in str(caught.value)


def test_a_table_or_a_function_may_choose_backends() -> None:
    """What such a function returns is looked at before anything is written."""
    answers: list[Any] = [Client(), backend()]
    with AgentLoop(backends=lambda config: answers.pop(0)) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        with pytest.raises(TypeError, match="what backends= returns must be a backend"):
            loop.start_run(made.id, "Hi", scope=SCOPE)
        assert loop.list_runs(made.id, scope=SCOPE) == ()


NUMBERS: list[tuple[str, dict[str, Any], str]] = [
    ("list_conversations", {"page": "2"}, "page must be a whole number, not '2'"),
    ("list_conversations", {"page": 0}, "page must be at least 1, not 0"),
    ("list_conversations", {"page": 10**30}, "page must be at most"),
    ("list_conversations", {"per_page": None}, "per_page must be a whole number"),
    ("list_conversations", {"per_page": 201}, "per_page must be at most 200, not 201"),
    ("messages", {"since": "0"}, "since must be a whole number, not '0'"),
    ("messages", {"since": 1.5}, "since must be a whole number, not 1.5"),
    ("messages", {"since": -1}, "since must be at least 0, not -1"),
    ("messages", {"since": 10**30}, "since must be at most"),
    ("events", {"after": "3"}, "after must be a whole number, not '3'"),
]


@both_faces
@pytest.mark.parametrize(("method", "wrong", "words"), NUMBERS)
def test_numbers_are_checked_at_the_door(
    face: str, method: str, wrong: dict[str, Any], words: str
) -> None:
    """A wrong number is a refused request, and not an error from inside."""
    with FACES[face](backend()) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        of = {
            "messages": (made.id,),
            "events": (loop.run(made.id, "Hi", scope=SCOPE).id,),
        }.get(method, ())
        with pytest.raises(RequestError, match=words) as caught:
            list(getattr(loop, method)(*of, scope=SCOPE, **wrong))
        assert caught.value.status == 400


IDS = ("get_conversation", "delete_conversation", "messages", "list_runs", "get_run",
       "cancel_run", "inference_job", "list_jobs", "wait")  # fmt: skip


@both_faces
@pytest.mark.parametrize("method", IDS)
def test_an_id_is_text(face: str, method: str) -> None:
    """Whole resources, uuids and numbers in its place are told by their kind."""
    with (
        FACES[face](backend()) as loop,
        pytest.raises(TypeError, match="must be text, not int; pass its id"),
    ):
        getattr(loop, method)(7, scope=SCOPE)


@both_faces
@pytest.mark.parametrize("outputs", [None, "yes", ["yes"], [("t1", "yes")]], ids=repr)
def test_outputs_are_by_call(face: str, outputs: Any) -> None:
    """Anything else than a dict is refused with the shape that is wanted."""
    with FACES[face](backend()) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        with pytest.raises(RequestError, match="outputs must be a dict") as caught:
            loop.resume(run, outputs, scope=SCOPE)
        assert caught.value.status == 400


@both_faces
def test_a_wait_that_is_over_names_its_run(face: str) -> None:
    """And how long was waited for it; the run goes on."""
    with FACES[face](backend()) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        with pytest.raises(TimeoutError, match=f"run {run.id} has not ended in 0 s"):
            loop.wait(run.id, scope=SCOPE, timeout=0)
        assert loop.wait(run.id, scope=SCOPE).status == "completed"


@pytest.mark.parametrize("step", ["hello", None, [says("x")]], ids=repr)
def test_a_script_is_of_replies(step: Any) -> None:
    """A text is told at once, and not by the run that reaches it."""
    with pytest.raises(TypeError, match="a script is of replies such as says"):
        ScriptedBackend(step)
    with pytest.raises(TypeError, match="a script is of replies such as says"):
        backend().add(step)


@pytest.mark.parametrize("step", ["hello", None, [bedrock_says("x")]], ids=repr)
def test_a_fakes_script_is_of_replies(step: Any) -> None:
    """FakeBedrock says so at once as well, wherever a reply is given."""
    words = "a script is of replies such as says"
    for give in (FakeBedrock, lambda one: FakeBedrock(default=one)):
        with pytest.raises(TypeError, match=words):
            give(step if step is not None else 1)
    with FakeBedrock() as bedrock:
        for give in (bedrock.script, bedrock.always):
            with pytest.raises(TypeError, match=words):
                give(step)


@pytest.mark.parametrize("step", ["hello", None, [cortex_says("x")]], ids=repr)
def test_a_snowflakes_script_is_of_replies(step: Any) -> None:
    """FakeSnowflake says it in the same words."""
    words = "a script is of replies such as says"
    with pytest.raises(TypeError, match=words):
        FakeSnowflake(step)
    with FakeSnowflake() as account, pytest.raises(TypeError, match=words):
        account.script(step)


VERBS = [(says, calls), (bedrock_says, bedrock_calls), (cortex_says, cortex_calls)]


@pytest.mark.parametrize("verbs", VERBS)
def test_the_verbs_of_a_script_say_what_they_take(verbs: Any) -> None:
    """A call that is no pair, and a text that is none, are told where they stand."""
    say, call = verbs
    with pytest.raises(TypeError, match=r"a call is a pair such as .* not 'a'"):
        call("a", {})
    with pytest.raises(TypeError, match="a call is a pair such as"):
        call(("a", {}, "more"))
    with pytest.raises(TypeError, match="says takes a text, not 5"):
        say(5)


def test_replies_that_nobody_asked_for_are_shown() -> None:
    """What is left of a script is named by what it would have said."""
    with pytest.raises(ScriptError, match=r"1 replies were never asked for:\n.*'left'"):
        ScriptedBackend(says("left")).assert_done()


def test_a_scripted_failure_is_of_a_known_kind() -> None:
    """In a file as well; the kinds there are are listed."""
    with pytest.raises(WireError, match=r"\$\[0\]: .*a failure is one of .*throttled"):
        script_from([{"fails": {"kind": "throttled"}}])


PAYLOADS: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"\$\.payload: must be a text, or an object .* not None"),
    "a number": (5, r"\$\.payload: must be a text, or an object .* not 5"),
    "a list": (["Hi"], r"\$\.payload: must be a text"),
    "no kind": ({"text": "Hi"}, "must be a text, or an object .* without kind"),
    "one block": (UserMessage(Text("Hi")), "UserMessage .* must be in a tuple: Text"),  # type: ignore[arg-type] # meant
    "a string": (UserMessage("Hi"), "UserMessage .* must be in a tuple: 'Hi'"),  # type: ignore[arg-type] # meant
}


@both_faces
@pytest.mark.parametrize("case", PAYLOADS)
def test_a_payload_of_the_wrong_kind_is_told(face: str, case: str) -> None:
    """What may be said is named, a plain text before all; nothing is written."""
    said, words = PAYLOADS[case]
    with FACES[face](backend()) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        with pytest.raises(RequestError, match=words) as caught:
            loop.run(made.id, said, scope=SCOPE)
        assert caught.value.slug == "invalid-request"
        assert loop.list_runs(made.id, scope=SCOPE) == ()


@both_faces
def test_a_config_that_holds_what_it_should_not_is_told(face: str) -> None:
    """One tool is no row of tools."""
    spec = ToolSpec(name="a", input_schema={"type": "object"})
    with FACES[face](backend()) as loop:
        defaults = Config(model="m", tools=spec)  # type: ignore[arg-type] # meant
        with pytest.raises(RequestError, match=r"Config .* in a tuple: ToolSpec"):
            loop.create_conversation(defaults=defaults, scope=SCOPE)


@both_faces
@pytest.mark.parametrize("timeout", ["5", float("nan"), True])
def test_a_wait_is_bounded_by_a_number(face: str, timeout: Any) -> None:
    """The run itself is not touched by a wrong one."""
    with FACES[face](backend()) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        with pytest.raises(WRONG, match="timeout must be a number of seconds"):
            loop.wait(run.id, scope=SCOPE, timeout=timeout)
        assert loop.get_run(run.id, scope=SCOPE).status == "pending"


WORKERS: list[tuple[dict[str, Any], str]] = [
    ({"n": "4"}, "n must be a whole number, not '4'"),
    ({"n": 0}, "n must be at least 1, not 0"),
    ({"poll": 0}, "poll must be above 0 seconds, not 0"),
    ({"poll": "1s"}, "poll must be a number of seconds, not '1s'"),
]


@pytest.mark.parametrize(("wrong", "words"), WORKERS)
def test_a_workers_numbers_are_checked(wrong: dict[str, Any], words: str) -> None:
    """Before any thread starts; the loop can be used all the same."""
    with AgentLoop(backend()) as loop:
        with pytest.raises(WRONG, match=words), loop.worker(**wrong):
            raise AssertionError("no worker")
        assert loop.watch.worker() == "none"


@pytest.mark.asyncio
@pytest.mark.parametrize(("wrong", "words"), WORKERS)
async def test_an_async_workers_numbers_are_checked(
    wrong: dict[str, Any], words: str
) -> None:
    """Before any task starts; the loop can be used all the same."""
    async with AsyncAgentLoop(backend()) as loop:
        with pytest.raises(WRONG, match=words):
            async with loop.worker(**wrong):
                raise AssertionError("no worker")
        assert loop.watch.worker() == "none"


PLACES: dict[str, tuple[Any, str]] = {
    "a URL": ("sqlite:///agents.db", "is a URL; give the path of the file"),
    "nothing": (None, "must be the path of a file, not None"),
    "no name": ("", "must be the path of a file, not ''"),
    "a number": (3, "must be the path of a file, not 3"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_sqlite_store_is_made_of_a_path(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQLite would take for another file name is refused, and makes no file."""
    monkeypatch.chdir(tmp_path)
    value, words = PLACES[case]
    with pytest.raises(ValueError, match=words):
        SQLiteStore(value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_made_prints_as_what_it_is(tmp_path: Path) -> None:
    """In a debugger or a log, each thing says what it is and shows no secret."""
    secret = "canary"
    store = PostgresStore(f"postgresql://me:{secret}@h/db")
    bedrock = BedrockBackend(region="eu-west-1")
    cortex = CortexBackend(auth=lambda: ("https://x", {"Authorization": secret}))
    with SQLiteStore(tmp_path / "a.db") as file:
        loop = AgentLoop(backend(), file, {"m": [plain]})
        shown = [repr(o) for o in (loop, file, store, bedrock, cortex, MemoryStore())]
        with loop.worker(2) as worker:
            shown.append(repr(worker))
        loop.close()
        shown += [repr(loop), repr(AsyncAgentLoop(backend(), store)), repr(backend())]
    assert shown == [
        "<AgentLoop over SQLiteStore, tools: m, open>",
        f"<SQLiteStore {str(tmp_path / 'a.db')!r}>",
        "<PostgresStore in schema 'agentloop'>",
        "<BedrockBackend over eu-west-1>",
        "<CortexBackend over rest>",
        "<MemoryStore of 0 conversations and 0 runs>",
        "<Worker of 2 threads, at work>",
        "<AgentLoop over SQLiteStore, tools: m, closed>",
        "<AsyncAgentLoop over PostgresStore, tools: none, open>",
        "<ScriptedBackend, 0 asked for, 1 left>",
    ]
