"""What every wire of Cortex takes as names of tools and as ids of calls."""

import re
from typing import Final

LEGAL: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
