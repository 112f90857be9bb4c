"""Exceptions whose message is one line for the user."""


class InputError(ValueError):
    """Bad input: the message is one line that says what was expected, what was found and what to do."""


class CommandFailed(RuntimeError):
    """Work that did not succeed although its input was good: the message is one line that says what failed and where to look."""
