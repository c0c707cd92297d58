"""The error of a store whose stored schema does not fit this release.

Every durable store numbers its schema and refuses what is newer than its code.
Nothing in here reads or writes a row.
"""


class SchemaVersionError(Exception):
    """What is stored has another schema version than this release works with."""
