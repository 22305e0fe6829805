class DataToolsError(Exception):
    """Something the user can mend; the message names the file and the remedy, and is all that is printed."""
