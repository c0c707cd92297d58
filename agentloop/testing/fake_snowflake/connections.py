"""A real Snowflake connection that reaches the fake and nothing else.

The room knows the options each connector line needs to stay on loopback. Connectors
ship few types, hence the `Any`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

OPTIONS = {
    "user": "agent",
    "password": "loopback",
    "account": "loopback",
    "host": "127.0.0.1",
    "protocol": "http",
    "login_timeout": 10,
    # 4.x would ask the cloud's metadata service otherwise.
    "platform_detection_timeout_seconds": 0.0,
}


def loopback_options(port: int) -> dict[str, Any]:
    """What the installed line of the connector needs to reach the fake at `port`.

    It is JSON, for programs that read the connector's options from a file.
    """
    options: dict[str, Any] = {
        **OPTIONS,
        "port": port,
        "session_parameters": {"CLIENT_TELEMETRY_ENABLED": False},
    }
    if int(version("snowflake-connector-python").partition(".")[0]) >= 5:
        # 5.x warns about a coming default otherwise.
        options["enable_server_session_keep_alive_auto_detection"] = False
    return options


def snowflake_connection(port: int, /, **options: object) -> Any:
    """Connect to the fake at `port`.

    Args:
        port: Where it listens on 127.0.0.1.
        **options: Options of `snowflake.connector.connect`, before our own.
    """
    try:
        import snowflake.connector
    except ImportError as error:
        raise ImportError(
            "FakeSnowflake.connect() needs snowflake-connector-python; "
            "pip install 'agentloop[cortex]'"
        ) from error
    return snowflake.connector.connect(**{**loopback_options(port), **options})
