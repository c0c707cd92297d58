"""Servers that the tests start and stop."""
