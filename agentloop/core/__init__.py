"""The pure core: values and the rules of the loop.

Nothing in here performs I/O, reads a clock, makes an id, draws a random number,
logs, parses JSON or knows a thread. Everything is a frozen attrs value or a
function of such values, which is what makes a run replayable and testable.
"""
