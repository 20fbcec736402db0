"""The error of a user's input, as opposed to a bug of ours."""

_LONGEST = 8000  # characters
_CONTROL = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160)) if chr(i) not in "\n\t"}


class UserError(Exception):
    """Bad input or a bad setting.

    The message says what is wrong, where (`file:line` for a file) and what to do about it. Command
    lines print it without a stack trace. What it shows of a file is not for the terminal to obey:
    control characters stand there as \\x1b, and a message that is too long loses its middle.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _LONGEST:
            half = _LONGEST // 2
            message = f"{message[:half]} [...] {message[-half:]}"
        super().__init__(message.translate(_CONTROL))
