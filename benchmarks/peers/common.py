"""What every adapter shares. Runs in a peer's environment, where agentloop is not."""

import asyncio
import gc
import json
import statistics
import sys
import time
from importlib.metadata import version

QUESTION = "Which slots are free on Friday?"
ANSWER = "Room 3 is free at ten."


class Count:
    """Calls of the model and of the tool in one run of `turns` model calls."""

    def __init__(self, turns):
        self.turns = turns
        self.model = 0
        self.tool = 0

    def ask(self):
        """The model is called; whether this is its last answer."""
        self.model += 1
        return self.model >= self.turns

    def arguments(self):
        """What the model passes to the tool."""
        return {"day": "Friday", "room": self.model}

    def answer(self, day, room):
        """The tool is called."""
        self.tool += 1
        return f"{day} {room}: 10:00, 14:00"

    def check(self):
        """Refuse a run that did other work than was asked for."""
        found = (self.model, self.tool)
        if found != (self.turns, self.turns - 1):
            raise SystemExit(f"{found} model and tool calls for {self.turns} turns")


def measure(package, prepare):
    """Time `await prepare(count)()`; `prepare` itself is not timed."""
    turns, samples = int(sys.argv[1]), int(sys.argv[2])
    found = []

    async def once():
        count = Count(turns)
        work = prepare(count)
        gc.collect()
        begin = time.process_time()
        await work()
        spent = time.process_time() - begin
        count.check()
        return spent * 1e6 / turns

    async def every():
        await once()  # warm
        for _ in range(samples):
            found.append(await once())

    asyncio.run(every())
    us = statistics.median(found)
    print(json.dumps({"version": version(package), "us": us, "samples": found}))
