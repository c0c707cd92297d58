"""The Bedrock backend as hosts configure it: models, options, clients, refusals."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentloop.backends.bedrock import (
    BedrockBackend,
    CachePoints,
    Capabilities,
    Guardrail,
    ModelOptions,
    Thinking,
    capabilities_of,
    client_warnings,
)
from agentloop.backends.bedrock import backend as backend_module
from agentloop.backends.bedrock import client as client_module
from agentloop.core.catalog import RequestError
from agentloop.core.config import AnyTool, Auto, Config, SpecificTool, ToolSpec
from agentloop.core.phases import ModelFailed, ModelReplied
from agentloop.ports import JobContext, MissingExtraError
from agentloop.testing.fake_bedrock import FakeBedrock, says, throttles, violations
from agentloop.testing.fake_bedrock.facts import facts_of
from tests import bedrock_cases as cases
from tests.bedrock_cases import CLAUDE, FAMILIES, LLAMA, MISTRAL, NOVA, R1, TITAN

JOB = JobContext(job_id="job-1", timeout=20.0)


class Client:
    """What is taken for a client: it can converse."""

    def converse(self, **_: Any) -> Any: ...


ASKED = cases.infer(cases.user("hi"))
OPUS = "anthropic.claude-opus-4-6-v1"
HAIKU = "anthropic.claude-3-haiku-20240307-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"


# ---------------------------------------------------------------- capabilities

IDS = {
    CLAUDE: "claude",
    "anthropic.claude-opus-4.6": "claude",
    "global.anthropic.claude-sonnet-4-20250514-v1:0": "claude",
    "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-3-7-sonnet": (
        "claude"
    ),
    "arn:aws:bedrock:eu-west-1::foundation-model/amazon.nova-lite-v1:0": "nova",
    "us-gov.amazon.nova-micro-v1:0": "nova",
    LLAMA: "llama",
    MISTRAL: "mistral",
    R1: "deepseek",
    TITAN: "titan",
    PROFILE: "unknown",
    "": "unknown",
}


@pytest.mark.parametrize(("model_id", "family"), IDS.items())
def test_family(model_id: str, family: str) -> None:
    """A model is known by its id, whatever region or ARN stands around it."""
    assert capabilities_of(model_id).family == family


VERSIONS = {
    "anthropic.claude-v2:1": (False, False, False, False),
    "anthropic.claude-instant-v1": (False, False, False, False),
    HAIKU: (True, False, False, False),
    "anthropic.claude-3-5-sonnet-20240620-v1:0": (True, False, False, False),
    "anthropic.claude-3-5-sonnet-20241022-v2:0": (True, True, False, False),
    "anthropic.claude-3-7-sonnet-20250219-v1:0": (True, True, True, False),
    "anthropic.claude-sonnet-4-20250514-v1:0": (True, True, True, False),
    "anthropic.claude-opus-4-1-20250805-v1:0": (True, True, True, False),
    CLAUDE: (True, True, True, True),
    OPUS: (True, True, True, True),
    "anthropic.claude-opus-4.6": (True, True, True, True),
}


@pytest.mark.parametrize("model_id", VERSIONS)
def test_claude_versions(model_id: str) -> None:
    """What Claude can do follows from its version in every spelling of it."""
    can = capabilities_of(model_id)
    found = (can.tools, bool(can.cache), "budget" in can.thinking, can.native_schema)
    assert found == VERSIONS[model_id]


@pytest.mark.parametrize("model_id", FAMILIES)
def test_never_more_than_is_known(model_id: str) -> None:
    """The table asks for nothing that the fake's own table denies."""
    can, facts = capabilities_of(model_id), facts_of(model_id)
    assert can.forced_choice <= facts.choices
    assert can.cache <= facts.cache
    for ours, theirs in (
        (can.tools, facts.tools),
        (can.result_status, facts.result_status),
        (can.mixed_results, facts.mixed_results),
        (can.native_schema, facts.json_schema),
        (can.strict_tools, facts.json_schema),
    ):
        assert theirs or not ours


def test_hidden_family() -> None:
    """A profile that hides the model is judged by the model's name in configs."""
    assert capabilities_of(PROFILE, CLAUDE).family == "claude"
    assert capabilities_of(CLAUDE, LLAMA).family == "claude"


OWN = Capabilities(family="own", mixed_results=True)


@pytest.mark.parametrize(
    "own", [{"mine": OWN}, {"mine": OWN}.get], ids=["mapping", "function"]
)
def test_own_capabilities(own: Any) -> None:
    """A host's record wins over the table, for the models it names."""
    found = BedrockBackend(capabilities=own, model_ids={"mine": NOVA, "other": NOVA})
    assert found._model("mine").can == OWN
    assert found._model("other").can == capabilities_of(NOVA)


def test_own_capabilities_may_change() -> None:
    """What a host comes to know better counts from the next run on."""
    known: dict[str, Capabilities] = {}
    backend = BedrockBackend(capabilities=known.get)
    assert backend._model("mine").can.family == "unknown"
    known["mine"] = OWN
    assert backend._model("mine").can == OWN


# ---------------------------------------------------------------- model ids


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (None, "mine"),
        ({"mine": NOVA}, NOVA),
        ({"x": NOVA}, "mine"),
        (str.upper, "MINE"),
    ],
    ids=["none", "mapping", "not in it", "function"],
)
def test_model_ids(ids: Any, expected: str) -> None:
    """The id asked for is the host's for the model's name, else the name itself."""
    with FakeBedrock(says("hello")) as bedrock:
        backend = BedrockBackend(bedrock.client(), model_ids=ids)
        session = backend.session(cases.setup(model="mine"))
        assert isinstance(session.infer(ASKED, JOB, None).event, ModelReplied)
        assert [request.model_id for request in bedrock.requests] == [expected]


# ---------------------------------------------------------------- check

REFUSED: dict[str, tuple[str, ModelOptions, Any, dict[str, Any]]] = {
    "is the stored prompt": (
        "arn:aws:bedrock:us-east-1:1:prompt/P:1",
        ModelOptions(),
        Auto(),
        {},
    ),
    "cannot be made to call a tool (any)": (LLAMA, ModelOptions(), AnyTool(), {}),
    "cannot be made to call a tool (tool)": (
        MISTRAL,
        ModelOptions(),
        SpecificTool("a-b"),
        {},
    ),
    "a thinking model cannot be made": (
        CLAUDE,
        ModelOptions(thinking=Thinking(1024)),
        AnyTool(),
        {},
    ),
    "takes no tools": (
        R1,
        ModelOptions(),
        Auto(),
        {"tools": (ToolSpec(name="a", input_schema={}),)},
    ),
    "has no budget thinking": (
        NOVA,
        ModelOptions(thinking=Thinking(1024)),
        Auto(),
        {},
    ),
    "has no adaptive thinking": (CLAUDE, ModelOptions(thinking=Thinking()), Auto(), {}),
    "goes with temperature 1 only": (
        CLAUDE,
        ModelOptions(request_fields={"thinking": {"type": "enabled"}}),
        Auto(),
        {"temperature": 0.5},
    ),
    "the thinking budget of 512": (
        CLAUDE,
        ModelOptions(thinking=Thinking(512)),
        Auto(),
        {},
    ),
    "the thinking budget of 4096": (
        CLAUDE,
        ModelOptions(thinking=Thinking(4096)),
        Auto(),
        {"max_tokens": 4096},
    ),
    "top_p must be between 0 and 1": (NOVA, ModelOptions(top_p=2), Auto(), {}),
    "temperature or top_p": (
        CLAUDE,
        ModelOptions(top_p=0.5),
        Auto(),
        {"temperature": 0.5},
    ),
    "no cache points in tools": (
        NOVA,
        ModelOptions(cache=CachePoints()),
        Auto(),
        {},
    ),
    "live for 1h": (OPUS, ModelOptions(cache=CachePoints(ttl="1h")), Auto(), {}),
    "a stop sequence must not be empty": (
        CLAUDE,
        ModelOptions(stop_sequences=("",)),
        Auto(),
        {},
    ),
    "metadata takes 15 pairs": (
        CLAUDE,
        ModelOptions(metadata={str(n): "" for n in range(16)}),
        Auto(),
        {},
    ),
    "is the job's own": (
        CLAUDE,
        ModelOptions(metadata={"agentloop_job": "x"}),
        Auto(),
        {},
    ),
    "holds characters beyond": (
        CLAUDE,
        ModelOptions(metadata={"a": "é"}),
        Auto(),
        {},
    ),
}


@pytest.mark.parametrize("part", REFUSED)
def test_check_refuses(part: str) -> None:
    """What every request of a run would be refused for is refused before it starts."""
    model_id, options, choice, config = REFUSED[part]
    backend = BedrockBackend(Client(), options={model_id: options})
    with pytest.raises(RequestError) as caught:
        backend.check(Config(**{"model": model_id, **config}), choice)
    assert caught.value.slug == "invalid-config"
    assert part in caught.value.detail


TAKEN: list[tuple[str, ModelOptions, Any, dict[str, Any]]] = [
    (CLAUDE, ModelOptions(), SpecificTool("a-b"), {}),
    (NOVA, ModelOptions(cache=CachePoints(tools=False), top_p=1), AnyTool(), {}),
    (MISTRAL, ModelOptions(), AnyTool(), {"temperature": 0.0}),
    (CLAUDE, ModelOptions(thinking=Thinking(1024)), Auto(), {"temperature": 1}),
    (OPUS, ModelOptions(thinking=Thinking(), cache=CachePoints(ttl="5m")), Auto(), {}),
    (CLAUDE, ModelOptions(cache=CachePoints(ttl="1h"), top_p=0.1), Auto(), {}),
    (R1, ModelOptions(metadata={"team": "a b", "empty": ""}), Auto(), {}),
    (
        CLAUDE,
        ModelOptions(guardrail=Guardrail(identifier="a", version="1")),
        Auto(),
        {},
    ),
]


@pytest.mark.parametrize(("model_id", "options", "choice", "config"), TAKEN)
def test_check_takes(
    model_id: str, options: ModelOptions, choice: Any, config: dict[str, Any]
) -> None:
    """What a check lets through is legal by every rule we know."""
    backend = BedrockBackend(Client(), options={model_id: options})
    backend.check(Config(**{"model": model_id, **config}), choice)
    given = cases.setup(model=model_id, **config)
    to = cases.model(model_id, options)
    body, _ = cases.body_of(cases.user("a"), to=to, given=given)
    assert violations(model_id, body) is None


def test_check_needs_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 and without a client the host is told what to install."""
    monkeypatch.setattr(backend_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"agentloop\[bedrock\]"):
        BedrockBackend().check(Config(model=CLAUDE), Auto())
    BedrockBackend(Client()).check(Config(model=CLAUDE), Auto())


def test_check_looks_for_boto3_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a client was built, no run is kept waiting by a search of the disk."""
    backend = BedrockBackend(region="us-east-1", endpoint_url="http://127.0.0.1:9")
    backend.open()
    monkeypatch.setattr(backend_module, "find_spec", lambda _: None)
    backend.check(Config(model=CLAUDE), Auto())


def test_infer_needs_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is the host's to mend and no failure of Bedrock's."""

    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(module, extra)

    monkeypatch.setattr(client_module, "require", missing)
    with pytest.raises(MissingExtraError, match=r"agentloop\[bedrock\]"):
        BedrockBackend().session(cases.setup()).infer(ASKED, JOB, None)


# ---------------------------------------------------------------- clients


@pytest.fixture(name="aws")
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which boto3 finds made-up settings and nothing else."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "fake-access-key",
        "AWS_SECRET_ACCESS_KEY": "fake-secret-key",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)


@pytest.mark.usefixtures("aws")
def test_built_client() -> None:
    """A client of our own makes one attempt, is patient, and fits its calls."""
    with FakeBedrock(says("hello")) as bedrock:
        backend = BedrockBackend(
            region="us-east-1", endpoint_url=bedrock.url, max_in_flight=17
        )
        assert backend.opened() is None
        found = backend.session(cases.setup()).infer(ASKED, JOB, None)
        assert isinstance(found.event, ModelReplied)
        client = backend.open().client
        client.close()
    config = client.meta.config
    assert config.retries["total_max_attempts"] == 1
    assert config.read_timeout >= 600
    assert (config.max_pool_connections, config.tcp_keepalive) == (17, True)
    assert "agentloop" in bedrock.requests[0].headers["user-agent"]
    assert backend.warnings() == ()


@pytest.mark.usefixtures("aws")
def test_built_once() -> None:
    """Sixteen threads that come first share the one client that is built."""
    backend = BedrockBackend(region="us-east-1", endpoint_url="http://127.0.0.1:9")
    with ThreadPoolExecutor(16) as pool:
        doors = set(pool.map(lambda _: backend.open(), range(16)))
    [door] = doors
    door.client.close()


@pytest.mark.usefixtures("aws")
def test_no_region() -> None:
    """A client that cannot be built is a failure of the attempt, with its reason."""
    found = BedrockBackend().session(cases.setup()).infer(ASKED, JOB, None)
    assert isinstance(found.event, ModelFailed)
    assert found.event.failure.kind == "invalid_request"
    assert "region" in found.event.failure.message


def test_injected_client_is_left_alone() -> None:
    """A host's client is the one that is used, with its settings as they were."""
    with FakeBedrock(says("hello")) as bedrock:
        client = bedrock.client(read_timeout=33)
        before = dict(vars(client.meta.config))
        backend = BedrockBackend(client)
        backend.session(cases.setup()).infer(ASKED, JOB, None)
        assert backend.open().client is client
        assert dict(vars(client.meta.config)) == before


WARNINGS: dict[str, dict[str, Any]] = {
    "up to 3 attempts": {"retries": {"mode": "standard"}},
    "up to 5 attempts": {"retries": {"mode": "legacy"}},
    "up to 2 attempts": {"retries": {"max_attempts": 1}},
    "up to 4 attempts": {"retries": {"total_max_attempts": 4}},
    "read_timeout of 60 s": {"read_timeout": 60},
    "pool of 10 connections": {"max_pool_connections": 10},
    "idle connections": {"tcp_keepalive": False},
}
FITTING = {"read_timeout": 600, "max_pool_connections": 32, "tcp_keepalive": True}


def test_what_does_not_fit_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A host's client that retries by itself is told of when it is first used."""
    with FakeBedrock(says("a"), says("b")) as bedrock:
        backend = BedrockBackend(bedrock.client(retries={"mode": "standard"}))
        assert caplog.messages == []
        for _ in range(2):
            backend.session(cases.setup()).infer(ASKED, JOB, None)
    [told] = [r for r in caplog.records if "up to 3 attempts" in r.message]
    assert (told.name, told.levelname) == ("agentloop", "WARNING")


def test_a_fitting_client_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """The client of the fake is one that fits, and so is one that we build."""
    with FakeBedrock(says("a")) as bedrock:
        backend = BedrockBackend(bedrock.client())
        backend.session(cases.setup()).infer(ASKED, JOB, None)
    assert caplog.messages == []


def test_retries_of_a_clients_own_are_recorded_as_one_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Why it is told: two throttles are hidden from the job by botocore's retries."""
    script = (throttles(), throttles(), says("at last"))
    with FakeBedrock(*script) as bedrock:
        retries = {"mode": "standard", "total_max_attempts": 3}
        client = bedrock.client(retries=retries)
        found = BedrockBackend(client).session(cases.setup()).infer(ASKED, JOB, None)
    assert isinstance(found.event, ModelReplied)
    assert len(bedrock.requests) == 3
    assert any("the loop retries itself" in text for text in caplog.messages)


class Session:
    """Looks like boto3's session, which makes clients."""

    def client(self, service: str) -> Any: ...


class ServiceClient:
    """Looks like a client of another service; boto3 is not asked."""

    def __init__(self, service: str) -> None:
        model = SimpleNamespace(service_name=service)
        self.meta = SimpleNamespace(service_model=model)


WRONG_CLIENTS: dict[str, Any] = {
    "not one of bedrock;": ServiceClient("bedrock"),
    "not one of s3;": ServiceClient("s3"),
    "not a Session; give session.client('bedrock-runtime')": Session(),
    "not a str; leave it out": "us-east-1",
    "not the class Client itself": Client,
}


@pytest.mark.parametrize("words", WRONG_CLIENTS)
def test_a_wrong_client_is_refused_at_the_door(words: str) -> None:
    """What cannot converse is told when the backend is made, with the way out."""
    with pytest.raises(TypeError, match=re.escape(words)):
        BedrockBackend(WRONG_CLIENTS[words])


WRONG_CHOICES: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "read_timeout must be a number of seconds": (TypeError, {"read_timeout": "x"}),
    "read_timeout must be above 0": (ValueError, {"read_timeout": float("nan")}),
    "max_in_flight must be a whole": (TypeError, {"max_in_flight": True}),
    "max_in_flight must be at least 1": (ValueError, {"max_in_flight": 0}),
    "region must be text": (TypeError, {"region": 1}),
    "region must be such as us-east-1": (ValueError, {"region": "bad region!"}),
    "endpoint_url must be such as": (ValueError, {"endpoint_url": "nonsense"}),
    "options must be ModelOptions by": (TypeError, {"options": [1]}),
    "options['m'] must be of ModelOptions, not a dict: ModelOptions(...)": (
        TypeError,
        {"options": {"m": {"top_p": 0.5}}},
    ),
    "options['m'].top_p must be of int or float, not a str": (
        TypeError,
        {"options": {"m": ModelOptions(top_p="0.5")}},  # type: ignore[arg-type] # meant
    ),
    "options['m'].metadata['a'] must be text": (
        TypeError,
        {"options": {"m": ModelOptions(metadata={"a": 1})}},  # type: ignore[dict-item] # meant
    ),
    "capabilities['m'] must be of Capabilities, not a dict": (
        TypeError,
        {"capabilities": {"m": {"tools": False}}},
    ),
    "capabilities must be Capabilities by": (TypeError, {"capabilities": "m"}),
    "model_ids['m'] must be of str": (TypeError, {"model_ids": {"m": None}}),
    "a model's name in model_ids must be text": (TypeError, {"model_ids": {1: "m"}}),
}


@pytest.mark.parametrize("words", WRONG_CHOICES)
def test_a_wrong_choice_is_refused_at_the_door(words: str) -> None:
    """What is asked of models is looked at when the backend is made."""
    error, choice = WRONG_CHOICES[words]
    with pytest.raises(error, match=re.escape(words)):
        BedrockBackend(**choice)


@pytest.mark.parametrize("choice", ["model_ids", "capabilities"])
def test_what_a_function_returns_is_looked_at(choice: str) -> None:
    """A host's own function is told by its argument when it gives something else."""
    backend = BedrockBackend(Client(), **{choice: lambda name: 3})  # type: ignore[arg-type] # meant
    with pytest.raises(TypeError, match=f"what {choice} returns"):
        backend.check(Config(model="m"), Auto())


@pytest.mark.parametrize("part", [*WARNINGS, None])
def test_warnings(part: str | None) -> None:
    """Each setting that does not fit is named, and only those."""
    config = {**FITTING, **WARNINGS.get(part or "", {})}
    with FakeBedrock() as bedrock:
        found = client_warnings(bedrock.client(**config), 32)
    assert len(found) == (0 if part is None else 1)
    assert all(str(part) in warning for warning in found)


@pytest.mark.parametrize("client", [object(), None])
def test_warning_about_another_client(client: Any) -> None:
    """A client of another kind is told as such."""
    [warning] = client_warnings(client)
    assert "bedrock-runtime" in warning


def test_importing_costs_nothing() -> None:
    """Importing and making a backend, and encoding a request, load no boto3."""
    code = (
        "import sys\n"
        "from agentloop.backends.bedrock import BedrockBackend\n"
        "from tests.bedrock_cases import infer, setup, user\n"
        "from agentloop.ports import JobContext\n"
        "session = BedrockBackend().session(setup())\n"
        "session.request(infer(user('hi')), JobContext(job_id='j'))\n"
        "bad = [m for m in ('boto3', 'botocore', 'urllib3') if m in sys.modules]\n"
        "sys.exit(repr(bad) if bad else 0)\n"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=root)


def test_name() -> None:
    """Job records call the backend by its short name."""
    assert BedrockBackend().name == "bedrock"
