"""The one exception for input that a user can mend."""


class InputError(ValueError):
    """Bad input: the message is one line that says what was expected, what was found and what to do."""
