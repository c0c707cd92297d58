"""The rules of `SNOWFLAKE.CORTEX.COMPLETE`, over its arguments.

The room holds the limits of the provider's "COMPLETE" and "Complete structured outputs"
pages. It must not parse SQL.
"""

from __future__ import annotations

from typing import Final

from agentloop.testing.fake_snowflake.known import Known, is_openai
from agentloop.testing.fake_snowflake.schemas import schema_fault
from agentloop.testing.fake_snowflake.shapes import Doc, Json, doc, docs, kind, text

MAX_TOKENS: Final = 8192

_OPTIONS: Final = frozenset({
    "temperature", "top_p", "max_tokens", "guardrails", "response_format",
})  # fmt: skip


def sql_fault(body: Doc, known: Known) -> str | None:
    """The first rule the call breaks, or None.

    Args:
        body: `model`, `prompt` and, when a third argument was given, `options`.
        known: What the provider remembers.
    """
    model = body.get("model")
    if not isinstance(model, str) or model not in known.models:
        return f'unknown model "{model}"'
    if "options" not in body:
        if isinstance(body.get("prompt"), str):
            return None
        return (
            f"prompt must be a string without options, not {kind(body.get('prompt'))}"
        )
    return _history_fault(body.get("prompt")) or _options_fault(body["options"], model)


def _history_fault(prompt: Json) -> str | None:
    if not isinstance(prompt, list) or not prompt:
        return f"prompt must be a non-empty array with options, not {kind(prompt)}"
    for i, message in enumerate(prompt):
        role, content = text(doc(message).get("role")), doc(message).get("content")
        if role not in {"system", "user", "assistant"}:
            return f'prompt[{i}]: unknown role "{role}"'
        if not isinstance(content, str):
            return f"prompt[{i}]: content must be a string, not {kind(content)}"
        if extra := sorted(set(doc(message)) - {"role", "content"}):
            return f"prompt[{i}]: only role and content are allowed, not {extra}"
        if role == "system" and i > 0:
            return f"prompt[{i}]: only the first message may be a system message"
    if docs(prompt)[-1]["role"] != "user":
        return "prompt: the last message must be of role user"
    return None


def _options_fault(options: Json, model: str) -> str | None:
    if not isinstance(options, dict):
        return f"options must be an object, not {kind(options)}"
    if unknown := sorted(set(options) - _OPTIONS):
        return f"unknown option {unknown[0]!r}"
    for name in ("temperature", "top_p"):
        value = options.get(name, 0)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            return f"{name} must be between 0 and 1, not {value!r}"
    most = options.get("max_tokens", 1)
    if not isinstance(most, int) or not 1 <= most <= MAX_TOKENS:
        return f"max_tokens must be between 1 and {MAX_TOKENS}, not {most!r}"
    return _format_fault(options, model)


def _format_fault(options: Doc, model: str) -> str | None:
    if "response_format" not in options:
        return None
    asked = doc(options["response_format"])
    if asked.get("type") != "json":
        return f"response_format.type must be 'json', not {asked.get('type')!r}"
    return schema_fault(asked.get("schema"), closed=is_openai(model))
