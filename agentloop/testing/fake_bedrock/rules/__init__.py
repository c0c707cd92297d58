"""Would Bedrock accept this request? Its rules as one table of pure functions.

`violations(model_id, body)` gives the first text Bedrock would answer with, or nothing;
it needs no server, so any test can ask it about a body it built, as sent or as given to
boto3. The words are Bedrock's own wherever they were ever reported; `inferred` marks a
rule that is documented or reported without its exact words. Nothing here is shared with
the backends it judges.
"""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from attrs import frozen

from agentloop.testing.fake_bedrock.facts import facts_of
from agentloop.testing.fake_bedrock.rules import (
    history,
    media,
    reasoning,
    schemas,
    tools,
)
from agentloop.testing.fake_bedrock.rules.converse import REQUEST
from agentloop.testing.fake_bedrock.rules.shapes import broken, unsendable
from agentloop.testing.fake_bedrock.rules.view import Ask, index_request
from agentloop.testing.fake_bedrock.values import Json

Check: TypeAlias = Callable[[Ask], Iterator[str]]

VALIDATION: Final = "ValidationException"
ACCESS_DENIED: Final = "AccessDeniedException"


@frozen
class Rule:
    """One row of the table.

    Attributes:
        name: What a test calls it.
        check: Yields the texts of every breach, in reading order.
        inferred: Whether the words are ours because nobody reported Bedrock's.
        code: The error code it is answered with.
    """

    name: str
    check: Check
    inferred: bool = False
    code: str = VALIDATION


@frozen
class Violation:
    """The first rule a request breaks, and the answer it earns."""

    rule: str
    message: str
    code: str = VALIDATION


RULES: Final = (
    # Turns (Converse API reference, and the texts users reported).
    Rule("prompt-variables", history.prompt_variables, inferred=True),
    Rule("first-is-user", history.starts_with_user),
    Rule("roles-alternate", history.roles_alternate),
    Rule("content-empty", history.content_filled),
    Rule("text-blank", history.text_filled),
    Rule("system-blank", history.system_filled, inferred=True),
    Rule("system-turn", history.system_turns_change_tools, inferred=True),
    Rule("block-role", history.blocks_fit_role, inferred=True),
    # Tool configuration.
    Rule("tool-config-missing", tools.tool_config_present),
    Rule("tools-unsupported", tools.model_has_tools),
    Rule("schema-object", tools.schema_is_object),
    Rule("schema-type", tools.schema_type_is_object),
    Rule("choice-unsupported", tools.choice_supported),
    # Pairs of tool use and tool result.
    Rule("input-object", history.input_is_object),
    Rule("result-json-object", history.result_json_is_object),
    Rule("use-ids-repeat", history.uses_unique, inferred=True),
    Rule("result-ids-repeat", history.results_unique),
    Rule("results-exceed-uses", history.results_asked_for),
    Rule("use-unanswered", history.uses_answered),
    Rule("error-result-empty", history.error_results_filled),
    Rule("result-empty", history.results_filled, inferred=True),
    Rule("status-unsupported", tools.status_supported, inferred=True),
    Rule("results-not-alone", tools.results_stand_alone),
    Rule("prefill", history.ends_with_user),
    # Documents.
    Rule("document-without-text", media.documents_with_text),
    Rule("document-name", media.document_names_plain),
    Rule("document-names-repeat", media.document_names_unique),
    Rule("documents-many", media.documents_few),
    Rule("document-large", media.documents_small, inferred=True),
    # Caching.
    Rule("cache-unsupported", reasoning.cache_supported, code=ACCESS_DENIED),
    Rule("cache-after-reasoning", reasoning.cache_not_after_reasoning),
    # Structured output.
    Rule("output-unsupported", schemas.output_format_supported, inferred=True),
    Rule("strict-unsupported", schemas.strict_supported, inferred=True),
    Rule("output-schema-json", schemas.output_schema_parses, inferred=True),
    # What the model behind Bedrock refuses.
    Rule("tool-names-repeat", tools.names_unique),
    Rule("choice-unknown", tools.choice_known, inferred=True),
    Rule("schema-root-composed", tools.no_root_composition),
    Rule("results-not-first", tools.results_stand_first),
    Rule("use-ids-known", tools.use_ids_new),
    Rule("images-many", media.images_few),
    Rule("image-large", media.images_small),
    Rule("image-wide", media.images_narrow),
    Rule("thinking-forced", reasoning.thinking_lets_choose),
    Rule("thinking-temperature", reasoning.thinking_at_one),
    Rule("thinking-budget", reasoning.thinking_budget),
    Rule("thinking-dropped", reasoning.thinking_kept),
    Rule("signature-missing", reasoning.reasoning_signed),
    Rule("signature-invalid", reasoning.reasoning_untouched),
    Rule("two-samplers", reasoning.one_sampler),
    Rule("cache-points-many", reasoning.cache_points_few),
    Rule("cache-lifetimes", reasoning.cache_longest_first),
    Rule("output-schema-subset", schemas.output_schema_in_subset),
    Rule("strict-schema-subset", schemas.strict_schema_in_subset, inferred=True),
    Rule("output-with-citations", schemas.output_without_citations, inferred=True),
)


def violations(model_id: str, body: Json) -> str | None:
    """The first text Bedrock would refuse this request with, or `None`.

    Args:
        model_id: A model id, inference profile or ARN, region prefix and all.
        body: The request body, as sent or as given to boto3; `modelId` may be in it.

    Returns:
        The message of the `ValidationException`, or `None` for a legal request.
    """
    found = first_violation(model_id, body)
    return found.message if found else None


def first_violation(model_id: str, body: Json) -> Violation | None:
    """The first rule a request breaks, with its name and error code."""
    sent = {name: value for name, value in body.items() if name != "modelId"}
    if reason := unsendable(sent):
        return Violation("json", malformed(reason))
    if faults := list(broken(REQUEST, sent)):
        count = f"{len(faults)} validation error{'s' if len(faults) > 1 else ''}"
        return Violation("shape", f"{count} detected: {'; '.join(faults)}")
    ask = index_request(facts_of(model_id), sent, prompt=":prompt/" in model_id)
    for rule in RULES:
        for message in rule.check(ask):
            return Violation(rule.name, message, rule.code)
    return None


def malformed(reason: str) -> str:
    """The text for a body that is no JSON."""
    return (
        f"Malformed input request: {reason}, please reformat your input and try again."
    )
