"""Stores behind `agentloop.ports.Store`; each knows only itself."""
