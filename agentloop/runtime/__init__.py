"""Driving runs: the face, the drivers, the worker. Knows ports, no adapter."""
