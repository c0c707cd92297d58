"""The figures T1 to T9, each with its baseline in the same interleaved run."""
