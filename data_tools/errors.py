"""The error that the data tools report to the user."""


class DataToolsError(Exception):
    """An error the user can fix; the message names the file and the remedy, and nothing else is printed."""
