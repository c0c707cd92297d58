"""What each Bedrock model family accepts, as far as it is documented or reported.

One record per family, found by model id with any region prefix removed. A model whose
id hides its family (an application profile, a provisioned model) is judged by nothing:
every fact is permissive. This table is the fake's own; it must never be shared with the
backend it checks.
"""

import re
from typing import Final
from urllib.parse import unquote

from attrs import evolve, frozen

_REGION: Final = re.compile(r"^(?:us-gov|us|eu|apac|jp|au|ca|sa|me|af|global)\.")
_ARN_TAIL: Final = re.compile(
    r"^arn:[^:]*:bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(.+)$"
)
# Bedrock's own ids have a dash before the minor version, gateways' names a dot.
_OLD_CLAUDE: Final = re.compile(r"claude-(\d)(?:[-.](\d))?-(?:opus|sonnet|haiku)")
_NEW_CLAUDE: Final = re.compile(r"claude-[a-z]+-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_FIRST_SONNET_35: Final = re.compile(r"claude-3[-.]5-sonnet-20240620")

ALL_CHOICES: Final = frozenset({"auto", "any", "tool"})
CACHE_EVERYWHERE: Final = frozenset({"tools", "system", "messages"})


@frozen
class ModelFacts:
    """What one model accepts.

    Attributes:
        family: Short name, for messages and tests.
        tools: Whether it can be given tools at all.
        choices: The `toolChoice` members it accepts.
        result_status: Whether `toolResult.status` may be set.
        mixed_results: Whether text may stand beside tool results in one turn.
        prefill: Whether the conversation may end with an assistant message.
        cache: Where `cachePoint` blocks may stand.
        json_schema: Whether `outputConfig.textFormat` and `strict` tools exist.
        one_sampler: Whether temperature and topP exclude each other.
        anthropic: Whether Anthropic's own request rules apply behind Bedrock's.
    """

    family: str = "unknown"
    tools: bool = True
    choices: frozenset[str] = ALL_CHOICES
    result_status: bool = True
    mixed_results: bool = True
    prefill: bool = True
    cache: frozenset[str] = CACHE_EVERYWHERE
    json_schema: bool = True
    one_sampler: bool = False
    anthropic: bool = False


UNKNOWN: Final = ModelFacts()

_OTHER: Final = ModelFacts(
    choices=frozenset({"auto"}),
    result_status=False,
    mixed_results=False,
    prefill=False,
    cache=frozenset(),
)
_NOVA: Final = evolve(
    _OTHER,
    family="nova",
    choices=ALL_CHOICES,
    result_status=True,
    cache=frozenset({"system", "messages"}),
    json_schema=False,
)
_LLAMA: Final = evolve(_OTHER, family="llama", choices=frozenset(), json_schema=False)
_MISTRAL: Final = evolve(_OTHER, family="mistral", choices=frozenset({"auto", "any"}))
_NO_TOOLS: Final = evolve(_OTHER, tools=False, choices=frozenset(), json_schema=False)

_FAMILIES: Final = (
    # The first prefix that fits decides, so the exceptions stand first.
    ("amazon.nova", _NOVA),
    ("amazon.titan", evolve(_NO_TOOLS, family="titan")),
    ("meta.llama2", evolve(_NO_TOOLS, family="llama")),
    ("meta.llama3-8b", evolve(_NO_TOOLS, family="llama")),
    ("meta.llama3-70b", evolve(_NO_TOOLS, family="llama")),
    ("meta.llama", _LLAMA),
    ("mistral.mistral-7b", evolve(_NO_TOOLS, family="mistral")),
    ("mistral.mixtral-8x7b", evolve(_NO_TOOLS, family="mistral")),
    ("mistral.", _MISTRAL),
    ("deepseek.r1", evolve(_NO_TOOLS, family="deepseek")),
    ("deepseek.", evolve(_OTHER, family="deepseek")),
    ("cohere.", evolve(_OTHER, family="cohere", choices=frozenset())),
    ("ai21.", evolve(_OTHER, family="ai21", choices=frozenset())),
    ("openai.", evolve(_OTHER, family="openai")),
    ("qwen.", evolve(_OTHER, family="qwen")),
    ("writer.", evolve(_OTHER, family="writer", choices=frozenset())),
)


def bare_model_id(model_id: str) -> str:
    """The model id without ARN, URL escapes and region prefix."""
    decoded = unquote(model_id)
    if found := _ARN_TAIL.match(decoded):
        decoded = found[1]
    return _REGION.sub("", decoded)


def facts_of(model_id: str) -> ModelFacts:
    """The facts of a model, permissive ones when the id tells nothing."""
    bare = bare_model_id(model_id)
    if bare.startswith("anthropic.claude"):
        return _claude(bare)
    for prefix, facts in _FAMILIES:
        if bare.startswith(prefix):
            return facts
    return UNKNOWN


def claude_version(bare: str) -> tuple[int, int]:
    """Major and minor of a Claude id, old or new spelling; (2, 0) for the oldest."""
    found = _OLD_CLAUDE.search(bare) or _NEW_CLAUDE.search(bare)
    if not found:
        return (2, 0)
    return int(found[1]), int(found[2] or 0)


def _claude(bare: str) -> ModelFacts:
    version = claude_version(bare)
    caches = version >= (3, 5) and not _FIRST_SONNET_35.search(bare)
    return ModelFacts(
        family="claude",
        tools=version >= (3, 0),
        choices=ALL_CHOICES if version >= (3, 0) else frozenset(),
        prefill=version < (4, 6),
        cache=CACHE_EVERYWHERE if caches else frozenset(),
        json_schema=version >= (4, 5),
        one_sampler=version >= (4, 5),
        anthropic=True,
    )
