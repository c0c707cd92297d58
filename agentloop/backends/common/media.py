"""Binary data in its one plain form: base64 as everybody writes it."""

from base64 import b64decode, b64encode
from binascii import Error


def canonical(data: str) -> str | None:
    """Base64 in its plain form; None for none at all or what is no base64."""
    try:
        raw = b64decode(data, validate=True)
    except (Error, ValueError):
        return None
    return b64encode(raw).decode("ascii") if raw else None
