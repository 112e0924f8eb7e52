"""The one exception of the library."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Input that cannot be used. One line: the argument, what was found, what is allowed."""
