"""A real boto3 client that reaches the fake and nothing else.

Settings of the machine stay out: no profile, no configuration file, no proxy, no bearer
token. Nothing is changed in the environment to get there. Boto3 ships no types, hence
the two `Any`.
"""

import os
import threading
from functools import cache
from typing import Any

from agentloop.ports.system import require

_LOCK = threading.Lock()  # creating boto3 sessions and clients is not thread-safe


def bedrock_client(url: str, **config: object) -> Any:
    """Create a `bedrock-runtime` client for `url`.

    Args:
        url: Where the fake listens.
        **config: Options of `botocore.config.Config`; they override what a client for
            inference needs: one attempt per call, patience, a connection per call.

    Raises:
        MissingExtraError: Boto3 is not installed.
    """
    require("boto3", "bedrock")
    from botocore.config import Config

    options: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": 64,
        "connect_timeout": 10,
        "read_timeout": 600,
        "tcp_keepalive": True,
        # Set in code, it wins over AWS_BEARER_TOKEN_BEDROCK; bearer tokens are refused
        # over plain HTTP.
        "signature_version": "v4",
        "proxies": {},
        "use_fips_endpoint": False,
        "use_dualstack_endpoint": False,
        **config,
    }
    with _LOCK:
        return _session().client(
            "bedrock-runtime", endpoint_url=url, config=Config(**options)
        )


@cache
def _session() -> Any:
    """One session for all: the second client costs milliseconds instead of 0.1 s."""
    import boto3.session
    import botocore.session

    nowhere = (None, None, os.devnull, None)
    core = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": nowhere,
            "credentials_file": nowhere,
        }
    )
    return boto3.session.Session(
        aws_access_key_id="fake-access-key",
        aws_secret_access_key="fake-secret-key",  # noqa: S106 - signs requests nobody checks
        region_name="us-east-1",
        botocore_session=core,
    )
