"""What Bedrock takes as names of tools and as ids of calls."""

import re
from typing import Final

from agentloop.backends.common.names import Names

TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TOOL_USE_ID: Final = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")

__all__ = ["TOOL_NAME", "TOOL_USE_ID", "Names"]
