"""What other libraries cost, measured once for the plot and to compare with.

Microseconds of client CPU per iteration, by model calls in one run. Measured side by
side on a machine with two cores, Python 3.11.7, with the versions named here; the
machine differs from yours, so carry the ratios to the bare loop, not the times.
`python -m benchmarks peers` measures again.
"""

from collections.abc import Mapping

VERSIONS: Mapping[str, str] = {
    "agno": "3.1.10",
    "langchain": "1.4.7",
    "strands": "1.62.0",
    "pydantic-ai": "2.68.0",
    "openai-agents": "0.24.0",
    "google-adk": "2.13.0",
}

IN_PROCESS: Mapping[str, Mapping[int, float]] = {
    "agno": {1: 493, 8: 540, 32: 523, 128: 486, 512: 472},
    "langchain": {1: 2041, 8: 2677, 32: 2598, 128: 2441, 512: 4087},
    "strands": {1: 1145, 8: 1674, 32: 3657, 128: 12545},  # no 512: RecursionError
    "pydantic-ai": {1: 4338, 8: 3225, 32: 3929, 128: 7419, 512: 25139},
    "google-adk": {1: 4981, 8: 3807, 32: 4335, 128: 8747, 512: 43793},
    "openai-agents": {1: 1943, 8: 3063, 32: 4856, 128: 12049, 512: 46828},
}

OVER_BOTO3: Mapping[str, Mapping[int, float]] = {
    "strands": {1: 4341, 8: 5282, 32: 7678, 128: 21224},
    "langchain": {1: 5261, 8: 7100, 32: 12352, 128: 32597, 512: 121980},
    "pydantic-ai": {1: 9377, 8: 7033, 32: 8640, 128: 16403, 512: 56748},
}
