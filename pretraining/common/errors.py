"""Exceptions whose message is one line for the user."""


class InputError(ValueError):
    """Bad input: the message is one line that says what was expected, what was found and what to do."""


class UsageError(InputError):
    """A command line that cannot be meant so: arguments that are missing, or do not go together."""


class CommandFailed(RuntimeError):
    """Work that did not succeed although its input was good: the message is one line that says what failed and where to look."""


class Diverged(CommandFailed, FloatingPointError):
    """A training whose loss is no number any more, or far above where it began."""


class Interrupted(CommandFailed):
    """Work that stopped because somebody asked for it, with its state saved."""

    def __init__(self, message: str, signal: int | None) -> None:
        super().__init__(message)
        self.exit_code = 128 + (signal or 15)
        """As shells have it."""
