"""Neutral ⇄ the three wires of Cortex, pure: no client, no network, no clock.

`encode` makes requests (`messages`, `chat` and `complete` write one dialect each),
`decode` reads replies, `stream` puts streams together, `sse` cuts bytes into events.
"""
