"""Tools for testing agents: scripts, fakes that speak real protocols, fixtures."""
