"""The table of Bedrock's errors: total, as documented, and free of secrets."""

import inspect
from typing import Any

import botocore.exceptions
import pytest
import urllib3.exceptions
from botocore.eventstream import ChecksumMismatch, InvalidPayloadLength
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from agentloop.backends.bedrock.errors import (
    CODES,
    OVERFLOWS,
    Phase,
    failure_of,
    kind_of,
    request_id_of,
)
from agentloop.backends.bedrock.stream import CutOffError
from agentloop.core.catalog import FAILURES, FailureKind

RETRIED = {"throttled", "overloaded", "unavailable", "connection", "timeout"}

REFUSALS: list[tuple[str, int, FailureKind]] = [
    ("ThrottlingException", 429, "throttled"),
    ("ModelNotReadyException", 429, "unavailable"),
    ("SomethingNew", 429, "throttled"),
    ("ServiceUnavailableException", 503, "unavailable"),
    ("InternalServerException", 500, "unavailable"),
    ("overloaded_error", 529, "overloaded"),
    ("SomethingNew", 529, "overloaded"),
    ("ModelTimeoutException", 408, "timeout"),
    ("ModelErrorException", 424, "provider"),
    ("ModelStreamErrorException", 424, "provider"),
    ("SomethingNew", 424, "provider"),
    ("SomethingNew", 422, "provider"),
    ("ValidationException", 400, "invalid_request"),
    ("AccessDeniedException", 403, "denied"),
    ("UnrecognizedClientException", 403, "denied"),
    ("ExpiredTokenException", 403, "denied"),
    ("ExpiredToken", 400, "denied"),
    ("MissingAuthenticationTokenException", 403, "denied"),
    ("SomethingNew", 401, "denied"),
    ("ResourceNotFoundException", 404, "not_found"),
    ("SomethingNew", 404, "not_found"),
    ("ServiceQuotaExceededException", 400, "quota"),
    ("ConflictException", 400, "provider"),
    ("413", 413, "invalid_request"),
    ("502", 502, "unavailable"),
    ("504", 504, "timeout"),
    ("501", 501, "provider"),
    ("com.amazon.coral#ThrottlingException:http://x", 400, "throttled"),
]


def refusal(code: str, status: int, text: str = "no", **headers: str) -> Exception:
    """A refusal as botocore raises it."""
    response = {
        "Error": {"Code": code, "Message": text},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "RequestId": "r-1",
            "HTTPHeaders": {name.replace("_", "-"): v for name, v in headers.items()},
        },
    }
    return botocore.exceptions.ClientError(response, "Converse")


@pytest.mark.parametrize(("code", "status", "kind"), REFUSALS)
def test_refusal(code: str, status: int, kind: FailureKind) -> None:
    """Each refusal has the kind of its code, or else of its status."""
    failure = failure_of(refusal(code, status, "no such luck"), "call")
    assert (failure.kind, failure.code) == (kind, code)
    assert failure.retried == (kind in RETRIED)
    assert code in failure.message
    assert "no such luck" in failure.message


STREAM: list[tuple[str, FailureKind]] = [
    ("throttlingException", "throttled"),
    ("internalServerException", "unavailable"),
    ("serviceUnavailableException", "unavailable"),
    ("modelStreamErrorException", "unavailable"),
    ("validationException", "invalid_request"),
    ("somethingNewException", "unavailable"),
]


@pytest.mark.parametrize(("code", "kind"), STREAM)
def test_in_stream(code: str, kind: FailureKind) -> None:
    """An exception within a stream is known by its small letter, and passing."""
    error = botocore.exceptions.EventStreamError(
        {"Error": {"Code": code, "Message": "late"}}, "ConverseStream"
    )
    failure = failure_of(error, "stream")
    assert (failure.kind, failure.code) == (kind, code)
    assert request_id_of(error) is None


OVERFLOW_TEXTS = [
    "Input is too long for requested model.",
    "input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000",
    "too many total text bytes: 9000000 > 2000000",
    "The model returned the following errors: prompt is too long: 210000 tokens",
]


@pytest.mark.parametrize("text", OVERFLOW_TEXTS)
@pytest.mark.parametrize("phase", ["call", "stream"])
def test_overflow(text: str, phase: Phase) -> None:
    """A prompt that is too long is told by the text, and never tried again."""
    failure = failure_of(refusal("ValidationException", 400, text), phase)
    assert failure.kind == "context_window"
    assert not failure.retried
    assert kind_of("ThrottlingException", 429, text, phase) == "throttled"


HINTS = [
    ({"x_amz_retry_after": "1500"}, 1.5),
    ({"Retry_After": "7"}, 7.0),
    ({"X_Amz_Retry_After": "1500", "retry_after": "7"}, 7.0),
    (
        {
            "retry_after": "Wed, 21 Oct 2026 07:28:30 GMT",
            "date": "Wed, 21 Oct 2026 07:28:00 GMT",
        },
        30.0,
    ),
    ({"retry_after": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
    ({"retry_after": "soon"}, 0.0),
    ({"retry_after": "-3"}, 0.0),
    ({"retry_after": "inf"}, 0.0),
    ({"retry_after": "nan"}, 0.0),
    ({}, 0.0),
]


@pytest.mark.parametrize(("headers", "seconds"), HINTS, ids=repr)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    """A provider's hint is taken in seconds, whichever header gives it."""
    error = refusal("ThrottlingException", 429, **headers)
    assert failure_of(error, "call").retry_after == seconds


def made(class_: type[Any]) -> Exception:
    """An instance of an exception class, whatever it wants to be made of."""
    try:
        return class_(error="e", endpoint_url="u", report="r", provider="p")
    except (KeyError, TypeError):
        error = class_.__new__(class_)
        Exception.__init__(error, "bare")
        return error


TRANSPORT: list[tuple[type[Any], FailureKind]] = [
    (botocore.exceptions.EndpointConnectionError, "connection"),
    (botocore.exceptions.ConnectionClosedError, "connection"),
    (botocore.exceptions.ProxyConnectionError, "connection"),
    (botocore.exceptions.SSLError, "connection"),
    (botocore.exceptions.HTTPClientError, "connection"),
    (botocore.exceptions.ResponseStreamingError, "connection"),
    (botocore.exceptions.ConnectTimeoutError, "timeout"),
    (botocore.exceptions.ReadTimeoutError, "timeout"),
    (botocore.exceptions.ParamValidationError, "invalid_request"),
    (botocore.exceptions.NoRegionError, "invalid_request"),
    (botocore.exceptions.InvalidEndpointConfigurationError, "invalid_request"),
    (botocore.exceptions.NoCredentialsError, "denied"),
    (botocore.exceptions.PartialCredentialsError, "denied"),
    (botocore.exceptions.CredentialRetrievalError, "denied"),
    (botocore.exceptions.TokenRetrievalError, "denied"),
    (botocore.exceptions.UnauthorizedSSOTokenError, "denied"),
    (botocore.exceptions.SSOTokenLoadError, "denied"),
    (botocore.exceptions.NoAuthTokenError, "denied"),
    (botocore.exceptions.ProfileNotFound, "denied"),
    (botocore.exceptions.InvalidDNSNameError, "provider"),
    (botocore.exceptions.UndefinedModelAttributeError, "provider"),
    (ResponseParserError, "malformed_output"),
    (ChecksumMismatch, "connection"),
    (InvalidPayloadLength, "connection"),
    (urllib3.exceptions.ProtocolError, "connection"),
    (urllib3.exceptions.ReadTimeoutError, "timeout"),
    (urllib3.exceptions.IncompleteRead, "connection"),
    (urllib3.exceptions.SSLError, "connection"),
    (ConnectionResetError, "connection"),
    (BrokenPipeError, "connection"),
    (TimeoutError, "timeout"),
    (OSError, "connection"),
    (CutOffError, "connection"),
    (AttributeError, "malformed_output"),
    (KeyError, "malformed_output"),
    (RuntimeError, "provider"),
]


@pytest.mark.parametrize(("class_", "kind"), TRANSPORT, ids=repr)
def test_class(class_: type[Any], kind: FailureKind) -> None:
    """An exception without a reply has the kind of its class."""
    failure = failure_of(made(class_), "call")
    assert (failure.kind, failure.code) == (kind, class_.__name__)
    assert class_.__name__ in failure.message


def test_every_class_of_botocore() -> None:
    """No exception class of botocore's is without a kind."""
    classes = [
        class_
        for _, class_ in inspect.getmembers(botocore.exceptions, inspect.isclass)
        if issubclass(class_, Exception) and not issubclass(class_, Warning)
    ]
    assert len(classes) > 90
    for class_ in classes:
        for phase in ("call", "stream"):
            assert failure_of(made(class_), phase).kind in FAILURES


@given(
    code=st.text(max_size=30) | st.sampled_from(sorted(CODES)),
    status=st.none() | st.integers(100, 999),
    text=st.text(max_size=40) | st.sampled_from(OVERFLOWS),
    phase=st.sampled_from(["call", "stream"]),
)
def test_total(code: str, status: int | None, text: str, phase: Phase) -> None:
    """Every code, status, text and phase has a kind."""
    assert kind_of(code, status, text, phase) in FAILURES


@pytest.mark.parametrize("response", [{}, {"Error": None}, {"Error": {"Code": None}}])
def test_refusal_without_a_body(response: dict[str, Any]) -> None:
    """A refusal that says nothing is a failure like any other."""
    error = RuntimeError("bare")
    error.response = response  # type: ignore[attr-defined] # as ClientError has it
    assert failure_of(error, "call").code == "Unknown"
    assert request_id_of(error) is None


SECRETS = [
    "The Canonical String: x-amz-security-token:FwoGZXIvYXdzEXAMPLE and more",
    "Authorization=AWS4-HMAC-SHA256Credential more",
    "Credential=AKIAIOSFODNN7EXAMPLE/20260101 more",
    "key ASIAIOSFODNN7EXAMPLE more",
    "Bearer ABCDEFGH.secret-token more",
    "http://user:FwoGsecret@proxy.test:80 more",
]


@pytest.mark.parametrize("text", SECRETS)
def test_no_secrets(text: str) -> None:
    """Whatever looks like a credential never reaches a message."""
    message = failure_of(refusal("AccessDeniedException", 403, text), "call").message
    for secret in ("FwoG", "AKIA", "ASIA", "secret", "AWS4-HMAC"):
        assert secret not in message
    assert "more" in message


def test_signature_errors_are_told_in_our_words() -> None:
    """A signature error quotes the request's headers, which are not repeated."""
    error = refusal("InvalidSignatureException", 403, "POST\nhost:x\nsigned;headers")
    message = failure_of(error, "call").message
    assert "signed;headers" not in message
    assert "InvalidSignatureException" in message


def test_harmless_words_stay() -> None:
    """A text that only speaks of signatures and tokens is told as it is."""
    text = "Invalid `signature` in `thinking` block; the security token expired"
    message = failure_of(refusal("ValidationException", 400, text), "call").message
    assert message.endswith(text)


def test_long_and_damaged_texts() -> None:
    """A message is one short line that every store takes."""
    text = "line\n" * 500 + "\x00\ud800"
    message = failure_of(refusal("ValidationException", 400, text), "call").message
    assert len(message) < 600
    assert "\n" not in message


def test_request_id() -> None:
    """A refusal carries the provider's request id."""
    assert request_id_of(refusal("ThrottlingException", 429)) == "r-1"
    assert request_id_of(RuntimeError("x")) is None
