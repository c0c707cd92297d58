"""Every way a call to Bedrock fails, and what the loop makes of it: one table.

Total: an exception that no row knows is a `provider` failure and is not tried again.
Read by code first, then by HTTP status, then by the exception's class; the phase counts
where a fault in mid-stream means something else than a refusal. Sources: the error
table of the Converse API reference, "Troubleshooting Amazon Bedrock API error codes",
botocore's exception classes. Which kinds are retried is said by the catalog.

Messages name the provider's code and carry no credentials: whatever looks like a key,
a token or a signature is cut out, and signature errors, which quote the request's
headers, are told in our own words. Classes are named by their text, so that this
module needs no boto3.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from agentloop.backends.common.waits import asked_for
from agentloop.core.catalog import Failure, FailureKind
from agentloop.wire import clean_text

Phase: TypeAlias = Literal["call", "stream"]

CODES: Final[Mapping[str, FailureKind]] = {
    "ThrottlingException": "throttled",
    "TooManyRequestsException": "throttled",
    "Throttling": "throttled",
    "ModelNotReadyException": "unavailable",
    "ServiceUnavailableException": "unavailable",
    "ServiceUnavailable": "unavailable",
    "InternalServerException": "unavailable",
    "InternalFailure": "unavailable",
    "overloaded_error": "overloaded",
    "ModelTimeoutException": "timeout",
    "RequestTimeout": "timeout",
    "ModelErrorException": "provider",
    "ModelStreamErrorException": "provider",
    "ValidationException": "invalid_request",
    "SerializationException": "invalid_request",
    "RequestEntityTooLargeException": "invalid_request",
    "UnknownOperationException": "invalid_request",
    "AccessDeniedException": "denied",
    "AccessDenied": "denied",
    "ExpiredToken": "denied",
    "ExpiredTokenException": "denied",
    "IncompleteSignature": "denied",
    "InvalidClientTokenId": "denied",
    "InvalidSignatureException": "denied",
    "MissingAuthenticationToken": "denied",
    "MissingAuthenticationTokenException": "denied",
    "NotAuthorized": "denied",
    "OptInRequired": "denied",
    "RequestExpired": "denied",
    "SignatureDoesNotMatch": "denied",
    "UnrecognizedClientException": "denied",
    "ResourceNotFoundException": "not_found",
    "ServiceQuotaExceededException": "quota",
    "ConflictException": "provider",
}

STREAM_CODES: Final[Mapping[str, FailureKind]] = {
    "ModelStreamErrorException": "unavailable",
    "InternalServerException": "unavailable",
    "ServiceUnavailableException": "unavailable",
    "ThrottlingException": "throttled",
    "ValidationException": "invalid_request",
}
"""Exceptions within a stream; the model had been accepted already."""

STATUSES: Final[Mapping[int, FailureKind]] = {
    401: "denied",
    403: "denied",
    404: "not_found",
    408: "timeout",
    422: "provider",
    424: "provider",
    429: "throttled",
    501: "provider",
    504: "timeout",
    505: "provider",
    529: "overloaded",
}

CLASSES: Final[Mapping[str, FailureKind]] = {
    # time
    "ConnectTimeoutError": "timeout",
    "ReadTimeoutError": "timeout",
    "NewConnectionError": "connection",
    "TimeoutError": "timeout",
    # the way to the provider
    "EndpointConnectionError": "connection",
    "ConnectionClosedError": "connection",
    "ProxyConnectionError": "connection",
    "ConnectionError": "connection",
    "HTTPClientError": "connection",
    "ResponseStreamingError": "connection",
    "IncompleteReadError": "connection",
    "ChecksumError": "connection",
    "FlexibleChecksumError": "connection",
    "ChecksumMismatch": "connection",
    "InvalidPayloadLength": "connection",
    "InvalidHeadersLength": "connection",
    "DuplicateHeader": "connection",
    "HTTPError": "connection",
    "OSError": "connection",
    "CutOffError": "connection",
    # an answer that is none
    "ResponseParserError": "malformed_output",
    # what botocore's parsers raise for JSON of another shape than they expect
    "ValueError": "malformed_output",
    "TypeError": "malformed_output",
    "LookupError": "malformed_output",
    "AttributeError": "malformed_output",
    "RecursionError": "malformed_output",  # nested deeper than Python reads
    # credentials
    "NoCredentialsError": "denied",
    "PartialCredentialsError": "denied",
    "CredentialRetrievalError": "denied",
    "UnknownCredentialError": "denied",
    "NoAuthTokenError": "denied",
    "TokenRetrievalError": "denied",
    "UnknownTokenProviderError": "denied",
    "RefreshWithMFAUnsupportedError": "denied",
    "MetadataRetrievalError": "denied",
    "SSOError": "denied",
    "LoginError": "denied",
    "ProfileNotFound": "denied",
    # a request or a client that is not as it should be
    "ParamValidationError": "invalid_request",
    "ValidationError": "invalid_request",
    "MissingParametersError": "invalid_request",
    "BaseEndpointResolverError": "invalid_request",
    "EndpointProviderError": "invalid_request",
    "InvalidEndpointConfigurationError": "invalid_request",
    "InvalidConfigError": "invalid_request",
    "InvalidProxiesConfigError": "invalid_request",
    "InvalidRetryConfigurationError": "invalid_request",
    "InvalidRegionError": "invalid_request",
    "UnknownRegionError": "invalid_request",
    "ServiceNotInRegionError": "invalid_request",
    # everything else of botocore's
    "BotoCoreError": "provider",
}
"""By class name, the nearest ancestor first; `Exception` itself is `provider`."""

OVERFLOWS: Final = (
    "input is too long",
    "prompt is too long",
    "exceed context limit",
    "too many total text bytes",
    "maximum context length",
    "context window",
    "too many input tokens",
    "exceeds the maximum number of tokens",
)
"""Parts of the texts in which a ValidationException tells of too long a prompt."""

_MOST_TEXT: Final = 500
_SIGNATURES: Final = frozenset(
    {"InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"}
)
_SECRETS: Final = re.compile(
    r"(?i)"
    r"\b(?:AKIA|ASIA|ABSK)[A-Z0-9]{8,}[\w=+/-]*"
    r"|\b(?:x-amz-security-token|authorization|credential|signature"
    r"|aws_secret_access_key|aws_session_token|api[-_]?key)[\"']?\s*[:=]\s*[\"']?"
    r"[^\s,;&\"']+"
    r"|\bbearer\s+[\w.~+/=-]{8,}"
    r"|(?<=://)[^/\s@]+:[^/\s@]+(?=@)"
)


def failure_of(error: BaseException, phase: Phase) -> Failure:
    """What an exception of a call means to the loop."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return _service_failure(response, phase)
    name = type(error).__name__
    return Failure(
        kind=_kind_of_class(type(error)),
        message=_told(name, _text_of(error), "the call to bedrock failed with"),
        code=name,
    )


def request_id_of(error: BaseException) -> str | None:
    """The request id that came with a refusal, if one came."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata") if isinstance(response, dict) else None
    found = metadata.get("RequestId") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) and found else None


def _service_failure(response: Mapping[str, Any], phase: Phase) -> Failure:
    error = response.get("Error")
    error = error if isinstance(error, Mapping) else {}
    metadata = response.get("ResponseMetadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    code = str(error.get("Code") or "Unknown")
    text = str(error.get("Message") or response.get("message") or "")
    status = metadata.get("HTTPStatusCode")
    headers = metadata.get("HTTPHeaders")
    return Failure(
        kind=kind_of(code, status if isinstance(status, int) else None, text, phase),
        message=_told(code, text, "bedrock answered"),
        code=code[:100],
        retry_after=_retry_after(headers if isinstance(headers, Mapping) else {}),
    )


def kind_of(code: str, status: int | None, text: str, phase: Phase) -> FailureKind:
    """The kind of a refusal, by its code, its status and when it came."""
    name = _modelled(code)
    if name == "ValidationException" and _overflows(text):
        return "context_window"
    if phase == "stream":
        return STREAM_CODES.get(name) or CODES.get(name) or "unavailable"
    return CODES.get(name) or _kind_of_status(status)


def _modelled(code: str) -> str:
    """The code as in the tables: in a stream it begins with a small letter."""
    bare = code.rpartition("#")[2].partition(":")[0]
    large = bare[:1].upper() + bare[1:]
    return large if large in CODES else bare


def _overflows(text: str) -> bool:
    lowered = text.lower()
    return any(part in lowered for part in OVERFLOWS)


def _kind_of_status(status: int | None) -> FailureKind:
    if status is None:
        return "provider"
    if status in STATUSES:
        return STATUSES[status]
    return "unavailable" if status >= 500 else "invalid_request"


def _kind_of_class(class_: type[BaseException]) -> FailureKind:
    for ancestor in class_.__mro__:
        kind = CLASSES.get(ancestor.__name__)
        if kind is not None:
            return kind
    return "provider"


# ---------------------------------------------------------------- words and hints


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception that cannot describe itself
        return ""


def _told(code: str, text: str, what: str) -> str:
    if code in _SIGNATURES:
        text = "the request's signature was not accepted; check the secret key"
    cleaned, _ = clean_text(" ".join(scrubbed(text).split()))
    shown = cleaned if len(cleaned) <= _MOST_TEXT else f"{cleaned[:_MOST_TEXT]}..."
    return f"{what} {code[:100]}: {shown}" if shown else f"{what} {code[:100]}"


def scrubbed(text: str) -> str:
    """A text without anything that looks like a credential."""
    return _SECRETS.sub("[removed]", text)


def _retry_after(headers: Mapping[str, Any]) -> float:
    """Seconds the provider asks us to wait: the longest hint it gives, or 0."""
    lowered = {str(k).lower(): str(v) for k, v in headers.items()}
    return max(asked_for(lowered), asked_for(lowered, "x-amz-retry-after", 0.001))
