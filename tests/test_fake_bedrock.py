"""FakeBedrock through the real boto3 client: replies, streams, failures, scripts."""

import http.client
import json
import os
import socket
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ParamValidationError,
    ReadTimeoutError,
)

from agentloop.testing.fake_bedrock import (
    FakeBedrock,
    Message,
    Partial,
    Received,
    Reply,
    ScriptError,
    accept_anything,
    answers,
    calls,
    content,
    intervenes,
    says,
    split,
    stalls,
    thinks,
    thinks_secretly,
    throttles,
    tokens,
    truncates,
    violations,
)
from agentloop.testing.fake_bedrock.events import pieces

MODEL = "us.anthropic.claude-sonnet-4-6"
HI: Any = [{"role": "user", "content": [{"text": "hi"}]}]
TOOLS: Any = {
    "tools": [
        {"toolSpec": {"name": "add", "inputSchema": {"json": {"type": "object"}}}}
    ]
}
NASTY = 'quote " slash \\ line \n tab \t nul \x00 é 日本 \U0001f600 end'


def ask(client: Any, messages: Any = HI, **fields: Any) -> Any:
    """Call `converse`."""
    return client.converse(modelId=MODEL, messages=messages, **fields)


def listen(client: Any, messages: Any = HI, **fields: Any) -> list[Any]:
    """Call `converse_stream` and read all of it."""
    events: list[Any] = []
    overhear(client, events, messages, **fields)
    return events


def overhear(client: Any, events: list[Any], messages: Any = HI, **fields: Any) -> None:
    """Read a stream into a list that is there even when the stream breaks."""
    reply = client.converse_stream(modelId=MODEL, messages=messages, **fields)
    with closing(reply["stream"]) as stream:
        for one in stream:
            events.append(one)


def kinds_of(events: Iterable[Any]) -> list[str]:
    """The kinds of some events."""
    return [next(iter(one)) for one in events]


def blocks(reply: Any) -> Any:
    """The content blocks of a reply."""
    return reply["output"]["message"]["content"]


def leave(bedrock: FakeBedrock) -> None:
    """Leave the block of a fake in good order."""
    bedrock.__exit__(None, None, None)


def heard(events: Iterable[Any]) -> dict[str, Any]:
    """What a careful client makes of a stream: raw blocks, stop reason, usage."""
    found: dict[int, dict[str, Any]] = {}
    rest: dict[str, Any] = {}
    for one in events:
        (kind, data), *_ = one.items()
        if kind == "contentBlockStart":
            found[data["contentBlockIndex"]] = {"use": data["start"]["toolUse"]}
        elif kind == "contentBlockDelta":
            delta = data["delta"]
            into = found.setdefault(data["contentBlockIndex"], {})
            if "reasoningContent" in delta:
                delta = delta["reasoningContent"]
            if "toolUse" in delta:
                delta = delta["toolUse"]
            for name, part in delta.items():
                into[name] = into[name] + part if name in into else part
        else:
            rest[kind] = data
    ordered = [found[place] for place in sorted(found)]
    return {"blocks": ordered, **rest}


# -- one script, both APIs ----------------------------------------------------------


def test_a_text_is_answered_whole_and_streamed() -> None:
    """The same value is a document for `converse` and deltas for `converse_stream`."""
    reply = says(NASTY, usage=(12, 3))
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        whole = ask(client)
        streamed = heard(listen(client))
    assert blocks(whole) == [{"text": NASTY}]
    assert streamed["blocks"] == [{"text": NASTY}]
    assert whole["stopReason"] == streamed["messageStop"]["stopReason"] == "end_turn"
    assert whole["usage"] == streamed["metadata"]["usage"]
    assert whole["usage"] == {"inputTokens": 12, "outputTokens": 3, "totalTokens": 15}


def test_events_come_in_the_order_of_the_service() -> None:
    """A text block has no start event, a tool block has, and usage comes last."""
    reply = says("ab") + calls(("add", {"a": 1}))
    with FakeBedrock(reply) as bedrock:
        kinds = kinds_of(listen(bedrock.client(), toolConfig=TOOLS))
    without_repeats = [k for i, k in enumerate(kinds) if i == 0 or kinds[i - 1] != k]
    assert without_repeats == [
        "messageStart",
        "contentBlockDelta",
        "contentBlockStop",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]


@pytest.mark.parametrize("piece", [None, 1, 2, 3, 5, 1000])
def test_tool_input_survives_any_cut(piece: int | None) -> None:
    """Deltas cut through escapes and wide characters still join to the input."""
    arguments = {"text": NASTY, "deep": [{"x": None}, 1.5, True]}
    reply = calls(("add", arguments))
    with FakeBedrock(reply if piece is None else split(reply, piece)) as bedrock:
        block = heard(listen(bedrock.client(), toolConfig=TOOLS))["blocks"][0]
    assert json.loads(block["input"]) == arguments


def test_a_piece_of_one_cuts_inside_an_escape_sequence() -> None:
    """The nastiest cut is really made: a delta ends between backslash and letter."""
    with FakeBedrock(split(calls(("add", {"t": "é\n"})), 1)) as bedrock:
        events = listen(bedrock.client(), toolConfig=TOOLS)
    deltas = [
        e["contentBlockDelta"]["delta"] for e in events if "contentBlockDelta" in e
    ]
    texts = [delta["toolUse"]["input"] for delta in deltas]
    assert "\\" in texts
    assert "".join(texts) == '{"t": "\\u00e9\\n"}'


def test_parallel_calls_keep_their_order_and_get_distinct_ids() -> None:
    """Ids left out are made up, the same on every run of the script."""

    def run() -> list[str]:
        reply = calls(("add", {"a": 1}), ("add", {"a": 2}), text="both")
        with FakeBedrock(reply, reply) as bedrock:
            client = bedrock.client()
            replies = [ask(client), ask(client)]
        return [
            b["toolUse"]["toolUseId"]
            for r in replies
            for b in blocks(r)
            if "toolUse" in b
        ]

    first = run()
    assert len(set(first)) == 4
    assert run() == first


def test_ids_may_be_given() -> None:
    """A script that names its ids gets them, on both APIs."""
    reply = calls(("add", {}), ("sub", {}), ids=("t-1", "t.2"))
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        whole = [b["toolUse"]["toolUseId"] for b in blocks(ask(client))]
        streamed = [b["use"]["toolUseId"] for b in heard(listen(client))["blocks"]]
    assert whole == streamed == ["t-1", "t.2"]


def test_too_few_ids_are_a_mistake() -> None:
    """Ids are given for every call or for none."""
    with pytest.raises(ValueError, match="1 ids for 2 calls"):
        calls(("add", {}), ("sub", {}), ids=("t-1",))


def test_a_call_without_arguments_streams_an_empty_text() -> None:
    """An empty input is an empty object in a document and no text in a stream."""
    reply = calls(("add", {}))
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        assert blocks(ask(client))[0]["toolUse"]["input"] == {}
        assert heard(listen(client))["blocks"][0]["input"] == ""


def test_reasoning_comes_back_signed_and_can_be_sent_again() -> None:
    """Text and signature arrive in both APIs, the signature as a delta of its own."""
    reply = thinks("first this, then that") + calls(("add", {"a": 1}))
    with FakeBedrock(reply, reply, says("done")) as bedrock:
        client = bedrock.client()
        whole = ask(client, toolConfig=TOOLS)
        streamed = heard(listen(client, toolConfig=TOOLS))["blocks"][0]
        reasoning = blocks(whole)[0]["reasoningContent"]["reasoningText"]
        assert streamed == reasoning
        answer = {
            "toolResult": {
                "toolUseId": blocks(whole)[1]["toolUse"]["toolUseId"],
                "content": [{"text": "2"}],
            }
        }
        history = [
            *HI,
            whole["output"]["message"],
            {"role": "user", "content": [answer]},
        ]
        assert blocks(ask(client, history, toolConfig=TOOLS)) == [{"text": "done"}]


def test_altered_reasoning_is_refused() -> None:
    """One changed character of a signed reasoning text is noticed."""
    with FakeBedrock(thinks("hm", signature=None) + says("four")) as bedrock:
        client = bedrock.client()
        message = ask(client)["output"]["message"]
        message["content"][0]["reasoningContent"]["reasoningText"]["text"] = "hm."
        with pytest.raises(
            ClientError, match="Invalid `signature` in `thinking` block"
        ):
            ask(client, [*HI, message, *HI])


def test_odd_reasoning_survives() -> None:
    """Empty reasoning, a foreign signature and redacted reasoning arrive exactly."""
    reply = thinks("", signature="theirs==") + thinks_secretly("c2VjcmV0") + says("4")
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        whole = blocks(ask(client))
        streamed = heard(listen(client))["blocks"]
    assert whole[0] == {
        "reasoningContent": {"reasoningText": {"text": "", "signature": "theirs=="}}
    }
    assert whole[1] == {"reasoningContent": {"redactedContent": b"secret"}}
    assert streamed[0] == {"text": "", "signature": "theirs=="}
    assert streamed[1] == {"redactedContent": b"secret"}


def test_cited_text_arrives_in_both_forms() -> None:
    """A citations block keeps text and citations apart in a stream too."""
    cited = {
        "citationsContent": {
            "content": [{"text": "the sky is blue"}],
            "citations": [{"title": "sky"}],
        }
    }
    with FakeBedrock(content([cited]), content([cited])) as bedrock:
        client = bedrock.client()
        assert blocks(ask(client)) == [cited]
        block = heard(listen(client))["blocks"][0]
    assert block == {"text": "the sky is blue", "citation": {"title": "sky"}}


def test_a_truncated_call_ends_in_the_middle_of_its_input() -> None:
    """The token limit leaves half a JSON text in a stream, no input in a document."""
    reply = truncates(("add", {"text": "abcdef"}), at=12, text="wait")
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        whole = ask(client)
        streamed = heard(listen(client))
    assert whole["stopReason"] == streamed["messageStop"]["stopReason"] == "max_tokens"
    assert blocks(whole)[1]["toolUse"]["input"] == {}
    assert streamed["blocks"][1]["input"] == '{"text": "ab'


def test_input_that_is_no_object_is_sent_as_it_is() -> None:
    """A model that breaks its own contract can be scripted."""
    reply = calls(("add", ["not", "an", "object"]))
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        assert blocks(ask(client))[0]["toolUse"]["input"] == ["not", "an", "object"]
        text = heard(listen(client))["blocks"][0]["input"]
    assert json.loads(text) == ["not", "an", "object"]


@pytest.mark.parametrize(
    ("reply", "stop", "kinds"),
    [
        (intervenes("no"), "guardrail_intervened", ["text"]),
        (content([]), "end_turn", []),
        (content([], stop="tool_use"), "tool_use", []),
        (says("x", stop="resting"), "resting", ["text"]),
        (calls(("add", {}), stop="end_turn"), "end_turn", ["toolUse"]),
        (says("half", stop="max_tokens"), "max_tokens", ["text"]),
        (says("", stop="end_turn"), "end_turn", ["text"]),
        (
            content([{"hologram": {"depth": 3}}]),
            "end_turn",
            ["SDK_UNKNOWN_MEMBER"],
        ),
    ],
    ids=[
        "guardrail",
        "empty",
        "tool-use-without-tools",
        "unknown-stop",
        "end-turn-with-calls",
        "max-tokens",
        "blank-text",
        "unknown-block",
    ],
)
def test_odd_turns_reach_both_apis(reply: Message, stop: str, kinds: list[str]) -> None:
    """Every odd shape of an answer is served as it stands."""
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        whole = ask(client)
        streamed = listen(client)
    assert whole["stopReason"] == stop
    assert [next(iter(b)) for b in blocks(whole)] == kinds
    assert {"messageStop": {"stopReason": stop}} in streamed
    stops = [e for e in streamed if "contentBlockStop" in e]
    assert len(stops) == len(kinds)


def test_an_unknown_block_streams_as_an_unknown_delta() -> None:
    """Botocore shows a delta it does not know by name only."""
    with FakeBedrock(content([{"hologram": {"depth": 3}}])) as bedrock:
        events = listen(bedrock.client())
    delta = next(e["contentBlockDelta"] for e in events if "contentBlockDelta" in e)
    assert delta["delta"] == {"SDK_UNKNOWN_MEMBER": {"name": "hologram"}}


def test_extra_fields_are_served_in_both_forms() -> None:
    """Fields like `trace` and the additional response fields find their event."""
    reply = Message(
        blocks=({"text": "x"},),
        extras={
            "additionalModelResponseFields": {"stop_sequence": "END"},
            "performanceConfig": {"latency": "standard"},
        },
    )
    with FakeBedrock(reply, reply) as bedrock:
        client = bedrock.client()
        whole = ask(client)
        events = heard(listen(client))
    assert whole["additionalModelResponseFields"] == {"stop_sequence": "END"}
    fields = events["messageStop"]["additionalModelResponseFields"]
    assert fields == {"stop_sequence": "END"}
    assert events["metadata"]["performanceConfig"] == {"latency": "standard"}


def test_joined_messages_keep_what_the_right_one_leaves_open() -> None:
    """`+` joins blocks; stop reason, usage and piece of the right one win."""
    joined = split(says("a", stop="max_tokens", usage=(1, 1)), 2) + says(
        "b", usage=(5, 5)
    )
    assert joined == Message(
        blocks=({"text": "a"}, {"text": "b"}),
        stop="max_tokens",
        usage=(5, 5),
        piece=2,
    )


@pytest.mark.parametrize(
    ("whole", "size", "parts"),
    [
        ("", 0, [""]),
        ("abc", 2, ["ab", "c"]),
        ("abcdefgh", 0, ["ab", "cd", "ef", "gh"]),
    ],
)
def test_pieces_lose_nothing(whole: str, size: int, parts: list[str]) -> None:
    """Deltas join to the text, and an empty text is still one delta."""
    assert list(pieces(whole, size)) == parts


# -- usage and ids ------------------------------------------------------------------


def test_usage_follows_the_size_of_request_and_reply() -> None:
    """Counts left out are the same for the same request and grow with it."""
    with FakeBedrock(default=says("four")) as bedrock:
        client = bedrock.client()
        first, again = ask(client)["usage"], ask(client)["usage"]
        longer = ask(client, [{"role": "user", "content": [{"text": "hi" * 100}]}])
    assert first == again
    assert longer["usage"]["inputTokens"] - first["inputTokens"] in {49, 50}
    assert first["totalTokens"] == first["inputTokens"] + first["outputTokens"]


def test_cache_counts_stand_beside_the_input() -> None:
    """`tokens` and a partial mapping give cache fields; the total counts them."""
    with FakeBedrock(
        says("x", usage=tokens(3, 5, read=100, written=20)),
        says(
            "x", usage={"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 7}
        ),
    ) as bedrock:
        client = bedrock.client()
        assert ask(client)["usage"] == {
            "inputTokens": 3,
            "outputTokens": 5,
            "totalTokens": 128,
            "cacheReadInputTokens": 100,
            "cacheWriteInputTokens": 20,
        }
        assert ask(client)["usage"]["totalTokens"] == 10


def test_request_ids_count_up() -> None:
    """Every request has its own id: on replies, streams, errors and in the record."""
    with FakeBedrock(says("a"), says("b"), throttles()) as bedrock:
        client = bedrock.client()
        ids = [ask(client)["ResponseMetadata"]["RequestId"]]
        reply = client.converse_stream(modelId=MODEL, messages=HI)
        list(reply["stream"])
        ids.append(reply["ResponseMetadata"]["RequestId"])
        with pytest.raises(ClientError) as caught:
            ask(client)
        ids.append(caught.value.response["ResponseMetadata"]["RequestId"])
        assert ids == [request.request_id for request in bedrock.requests]
    assert ids == [f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3)]


# -- scripts ------------------------------------------------------------------------


def test_an_unexpected_request_is_refused_and_recorded() -> None:
    """A request beyond the script gets an unretried error and fails the block."""
    bedrock = FakeBedrock(says("a"))
    client = bedrock.client(retries={"mode": "standard"})
    ask(client)
    with pytest.raises(ClientError, match="no reply for #2") as caught:
        ask(client)
    assert caught.value.response["Error"]["Code"] == "UnexpectedRequest"
    assert [request.number for request in bedrock.unexpected] == [2]
    with pytest.raises(ScriptError, match="unexpected request #2 converse"):
        leave(bedrock)


def test_an_unused_reply_fails_the_block() -> None:
    """Leaving the block with replies left names them and shows what was received."""
    bedrock = FakeBedrock(says("a"), says("left over"))
    ask(bedrock.client())
    with pytest.raises(ScriptError) as caught:
        leave(bedrock)
    message = str(caught.value)
    assert "unused reply Message(blocks=({'text': 'left over'},)" in message
    assert "#1 converse us.anthropic.claude-sonnet-4-6: 1 messages" in message


def test_a_failure_in_the_block_is_not_hidden() -> None:
    """An exception of the test itself wins over an unused reply."""
    with pytest.raises(KeyError, match="mine"), FakeBedrock(says("left over")):
        raise KeyError("mine")


def test_a_refused_request_consumes_nothing() -> None:
    """An illegal request is refused by its rule and leaves the script as it was."""
    with FakeBedrock(says("a")) as bedrock:
        client = bedrock.client()
        with pytest.raises(client.exceptions.ValidationException, match="is blank"):
            ask(client, [{"role": "user", "content": [{"text": " "}]}])
        assert [entry.rule for entry in bedrock.refused] == ["text-blank"]
        assert len(bedrock.unused) == 1
        assert blocks(ask(client)) == [{"text": "a"}]
        assert bedrock.inferences == 1


def test_the_transcript_shows_refusals() -> None:
    """A failed script says which request was refused and why."""
    bedrock = FakeBedrock(says("a"))
    with pytest.raises(ClientError):
        ask(bedrock.client(), [{"role": "user", "content": [{"text": ""}]}])
    with pytest.raises(ScriptError, match=r"REFUSED: The text field .* is blank"):
        leave(bedrock)


def test_the_script_grows_and_falls_back() -> None:
    """Replies added later are served in order, then the default for ever."""
    with FakeBedrock(says("a")) as bedrock:
        bedrock.script(says("b")).always(says("z"))
        client = bedrock.client()
        said = [blocks(ask(client))[0]["text"] for _ in range(5)]
    assert said == ["a", "b", "z", "z", "z"]


def test_a_computed_reply_sees_the_request() -> None:
    """A programmable model answers from what it was asked, with any kind of reply."""

    def model(request: Received) -> Reply:
        if request.tool_results:
            results = [part["content"] for part in request.tool_results]
            return says(f"got {json.dumps(results)}")
        if request.last_user_text == "slow down":
            return throttles()
        return calls((request.tool_names[0], {"q": request.last_user_text}))

    with FakeBedrock(default=answers(model)) as bedrock:
        client = bedrock.client()
        first = ask(client, toolConfig=TOOLS)["output"]["message"]
        assert first["content"][0]["toolUse"]["input"] == {"q": "hi"}
        answer = {
            "toolResult": {
                "toolUseId": first["content"][0]["toolUse"]["toolUseId"],
                "content": [{"json": {"n": 4}}],
            }
        }
        history = [*HI, first, {"role": "user", "content": [answer]}]
        last = blocks(ask(client, history, toolConfig=TOOLS))
        assert last == [{"text": 'got [[{"json": {"n": 4}}]]'}]
        with pytest.raises(client.exceptions.ThrottlingException):
            ask(client, [{"role": "user", "content": [{"text": "slow down"}]}])


def test_a_failing_computed_reply_is_reported() -> None:
    """A mistake in the script is an error for the caller and fails the block."""
    bedrock = FakeBedrock(answers(lambda request: says(str(1 // 0))))
    with pytest.raises(ClientError, match="ZeroDivisionError") as caught:
        ask(bedrock.client())
    assert caught.value.response["Error"]["Code"] == "ScriptFailed"
    with pytest.raises(ScriptError, match="ZeroDivisionError"):
        leave(bedrock)


# -- records ------------------------------------------------------------------------


def test_a_request_is_recorded_as_it_was_sent() -> None:
    """Operation, decoded model id, body, bytes and lower-case headers are kept."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.meta.llama4-v1:0"
    with FakeBedrock(says("a"), says("b")) as bedrock:
        client = bedrock.client()
        client.converse(modelId=arn, messages=HI, requestMetadata={"run": "r1"})
        listen(client)
        first, second = bedrock.requests
    assert (first.operation, second.operation) == ("converse", "converse_stream")
    assert (first.model_id, second.model_id) == (arn, MODEL)
    assert first.body == {"messages": HI, "requestMetadata": {"run": "r1"}}
    assert json.loads(first.raw) == first.body
    assert first.headers["content-type"] == "application/json"
    assert first.headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert first.last_user_text == "hi"
    assert "authorization" not in repr(first)


def test_only_the_last_requests_are_kept_when_asked() -> None:
    """A load test does not fill the memory."""
    with FakeBedrock(default=says("ok"), keep=2) as bedrock:
        client = bedrock.client()
        for _ in range(5):
            ask(client)
        assert [request.number for request in bedrock.requests] == [4, 5]
        assert bedrock.inferences == 5


def test_other_paths_are_unknown() -> None:
    """What is not Converse is refused with 404 and not recorded."""
    with FakeBedrock() as bedrock:
        with pytest.raises(ClientError) as caught:
            bedrock.client().invoke_model(modelId=MODEL, body=b"{}")
        assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
        connection = http.client.HTTPConnection(bedrock.url.removeprefix("http://"))
        connection.request("GET", "/", headers={"Expect": "100-continue"})
        assert connection.getresponse().status == 404
        connection.close()
        assert bedrock.requests == []


# -- many at once, and the end ------------------------------------------------------


def test_many_threads_share_one_client() -> None:
    """Parallel calls each get one reply, and the fake saw them in flight together."""
    together = threading.Barrier(8, timeout=30)

    def model(request: Received) -> Reply:
        together.wait()
        return says(request.last_user_text)

    with FakeBedrock(default=answers(model)) as bedrock:
        client = bedrock.client(max_pool_connections=8)

        def call(n: int) -> str:
            message = {"role": "user", "content": [{"text": f"n{n}"}]}
            return str(blocks(ask(client, [message]))[0]["text"])

        with ThreadPoolExecutor(8) as pool:
            said = list(pool.map(call, range(16)))
        assert said == [f"n{n}" for n in range(16)]
        assert bedrock.most_in_flight == 8
        assert bedrock.inferences == 16
        assert len({request.request_id for request in bedrock.requests}) == 16


def test_latency_delays_and_close_cuts_it_short() -> None:
    """A latency longer than the read timeout is felt, and does not delay the end."""
    slow = FakeBedrock(default=says("a"), latency=3600)
    with slow as bedrock, pytest.raises(ReadTimeoutError):
        ask(bedrock.client(read_timeout=0.1))


def test_a_judge_may_be_replaced() -> None:
    """Without rules an illegal request is answered like any other."""
    with FakeBedrock(says("a"), judge=accept_anything) as bedrock:
        assert blocks(ask(bedrock.client(), [])) == [{"text": "a"}]


def test_no_thread_is_left_behind() -> None:
    """After `close`, also twice, no thread and no listening socket remain."""
    before = set(threading.enumerate())
    bedrock = FakeBedrock(default=says("a"))
    ask(bedrock.client())
    idle = http.client.HTTPConnection(bedrock.url.removeprefix("http://"))
    idle.connect()
    bedrock.close()
    bedrock.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(bedrock.url.removeprefix("http://")).connect()
    idle.close()


def test_the_environment_of_the_machine_stays_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bearer tokens, profiles and proxies change nothing and are left as they are."""
    settings = {
        "AWS_BEARER_TOKEN_BEDROCK": "secret-token",
        "AWS_PROFILE": "nowhere",
        "AWS_MAX_ATTEMPTS": "7",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with FakeBedrock(throttles(), says("a")) as bedrock:
        client = bedrock.client()
        with pytest.raises(client.exceptions.ThrottlingException):
            ask(client)
        assert blocks(ask(client)) == [{"text": "a"}]
        assert "secret-token" not in str(bedrock.requests[0].headers)
    assert {name: os.environ[name] for name in settings} == settings


def test_a_partial_input_is_judged_by_nobody() -> None:
    """A scripted reply is no request: what the model says may be illegal to send."""
    with FakeBedrock(
        calls(
            (
                "$READ",
                Partial('{"a'),
            )
        )
    ) as bedrock:
        message = ask(bedrock.client())["output"]["message"]
    legal = {"messages": [*HI, message, *HI], "toolConfig": TOOLS}
    assert "failed to satisfy constraint" in str(violations(MODEL, legal))


def test_a_client_may_leave_early() -> None:
    """A caller that hangs up while it is answered disturbs nobody else."""
    with FakeBedrock(stalls(0.05, says("a")), says("b")) as bedrock:
        host, port = bedrock.url.removeprefix("http://").split(":")
        body = json.dumps({"messages": HI}).encode()
        head = f"POST /model/{MODEL}/converse HTTP/1.1\r\ncontent-length: {len(body)}"
        with socket.create_connection((host, int(port))) as hasty:
            hasty.sendall(head.encode() + b"\r\n\r\n" + body)
            while len(bedrock.unused) == 2:
                threading.Event().wait(0.001)
        with socket.create_connection((host, int(port))) as confused:
            confused.sendall(b"what\r\n")
            assert confused.recv(1) == b""
        assert blocks(ask(bedrock.client())) == [{"text": "b"}]


def test_a_request_without_user_text_has_none() -> None:
    """What a computed reply asks of a request is empty rather than an error."""
    request = Received(
        number=1,
        operation="converse",
        model_id=MODEL,
        request_id="r",
        body={"messages": [{"role": "user", "content": [{"image": {}}]}]},
        raw=b"",
        headers={},
    )
    assert (request.last_user_text, request.tool_names, request.tool_results) == (
        "",
        (),
        (),
    )


def test_a_missing_boto3_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the server runs and its client says how to get boto3."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with FakeBedrock() as bedrock, pytest.raises(ImportError, match=r"\[bedrock\]"):
        bedrock.client()


def test_boto3_itself_refuses_what_it_can() -> None:
    """Requests that botocore blocks never reach the fake."""
    with FakeBedrock() as bedrock:
        with pytest.raises(ParamValidationError):
            ask(bedrock.client(), inferenceConfig={"maxTokens": 0})
        assert bedrock.requests == []
