"""`python -m agentloop` is `agentloop`."""

from agentloop.cli import main

main()
