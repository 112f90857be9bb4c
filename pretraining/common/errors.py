"""Exceptions whose message is one line for the user."""


class InputError(ValueError):
    """Bad input; the message is one line with what was expected, what was found and what to do."""


class UsageError(InputError):
    """Wrong command line: missing arguments, or arguments that exclude each other."""


class CommandFailed(RuntimeError):
    """Failure despite valid input; the message is one line with what failed and where to look."""


class Diverged(CommandFailed, FloatingPointError):
    """Diverged training: the loss is not finite, or far above its initial value."""


class Interrupted(CommandFailed):
    """Interruption by a stop signal, after the state was saved."""

    def __init__(self, message: str, signal: int | None) -> None:
        super().__init__(message)
        self.exit_code = 128 + (signal or 15)
        """Exit code by the convention of shells: 128 + signal number."""
