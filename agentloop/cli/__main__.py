"""`python -m agentloop.cli` is `agentloop`."""

from agentloop.cli import main

main()
