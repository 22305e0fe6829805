"""The error that the data tools report to the user."""


class DataToolsError(Exception):
    """An error that the user can fix. Its message, which names the file and the remedy, is all that is printed."""
