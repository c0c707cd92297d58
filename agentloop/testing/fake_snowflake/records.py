"""What the fake remembers of a request, and what a test may ask about it.

The room holds values and readers over the three dialects. It must not judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from attrs import field, frozen

from agentloop.testing.fake_snowflake.rules import Dialect
from agentloop.testing.fake_snowflake.shapes import Doc, Json, doc, docs, text

#: What became of a request: the model ran; the script failed it; a rule refused it; its
#: credentials were not accepted; the script had nothing left.
Outcome: TypeAlias = Literal[
    "pending", "answered", "failed", "refused", "unauthorized", "unscripted"
]


@frozen(kw_only=True)
class Request:
    """One physical request at an inference door, as it was received.

    Attributes:
        number: Its place in the order of arrival, from one.
        door: The dialect it came in.
        body: The document; for SQL the arguments of COMPLETE.
        headers: Lower-case names; credentials are left out.
        auth: Which kind of credentials it carried.
        request_id: `X-Snowflake-Request-Id` of the reply; on SQL the connector's own.
        query_id: The query it started (SQL).
        parameters: Session and statement parameters in force (SQL).
        complaint: Why it was refused, if it was.
    """

    number: int
    door: Dialect
    body: Doc = field(repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    auth: Literal["session", "bearer"] = "session"
    request_id: str
    query_id: str | None = None
    parameters: Mapping[str, Json] = field(factory=dict, repr=False)
    outcome: Outcome = "pending"
    complaint: str | None = None

    @property
    def model(self) -> str:
        """The model asked."""
        return text(self.body.get("model"))

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return self.body.get("stream") is True

    @property
    def usage_asked(self) -> bool:
        """Whether a chat stream is to end with usage."""
        return doc(self.body.get("stream_options")).get("include_usage") is True

    @property
    def tag(self) -> str | None:
        """The query tag (SQL)."""
        return text(self.parameters.get("QUERY_TAG")) or None

    @property
    def messages(self) -> tuple[Doc, ...]:
        """The messages it carries."""
        return tuple(docs(self.body.get("messages", self.body.get("prompt"))))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names of the tools it offers, in order."""
        return tuple(
            text(tool.get("name")) or text(doc(tool.get("function")).get("name"))
            for tool in docs(self.body.get("tools"))
        )

    @property
    def last_user_text(self) -> str:
        """The text of the last user message that has one."""
        for message in reversed(self.messages):
            said = _said(message.get("content"))
            if message.get("role") == "user" and said:
                return said
        return text(self.body.get("prompt"))

    @property
    def tool_results(self) -> tuple[Doc, ...]:
        """The tool results after the last assistant message, in order."""
        found: list[Doc] = []
        for message in reversed(self.messages):
            if message.get("role") == "assistant":
                break
            blocks = docs(message.get("content"))
            results = [b for b in blocks if b.get("type") == "tool_result"]
            found = ([message] if message.get("role") == "tool" else results) + found
        return tuple(found)


def described(request: Request) -> str:
    """One line about a request, for error messages."""
    last = request.messages[-1] if request.messages else {}
    said = request.last_user_text
    shown = said if len(said) <= 60 else f"{said[:57]}..."
    line = (
        f"#{request.number} {request.door} {request.model}: {request.outcome}, "
        f"{len(request.messages)} messages, last {text(last.get('role'))!r}, "
        f"user said {shown!r}"
    )
    return f"{line}, {request.complaint}" if request.complaint else line


def _said(content: Json) -> str:
    if isinstance(content, str):
        return content
    parts = [text(b.get("text")) for b in docs(content) if b.get("type") == "text"]
    return "\n".join(parts)
