"""Servers of tools behind `agentloop.ports.ToolServer`; each knows only itself."""
