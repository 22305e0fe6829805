"""What a user can put right: every such error is one sentence that names the thing and says what to do."""


class TransRecError(Exception):
    """Base of the errors that commands show as one line instead of a traceback."""


class NotFiniteError(TransRecError, ValueError):
    """Scores that are not numbers, so nothing can be ranked by them."""
