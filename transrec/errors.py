"""Errors that a user can fix; each message is one sentence with the cause and the remedy."""


class TransRecError(Exception):
    """Base of the errors that commands print as one line instead of a traceback."""


class NotFiniteError(TransRecError, ValueError):
    """Scores contain NaN, so nothing can be ranked."""
