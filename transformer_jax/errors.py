"""The error of a user's input, as opposed to a bug of ours."""


class UserError(Exception):
    """Bad input or a bad setting.

    The message says what is wrong, where (`file:line` for a file) and what to do about it. Command
    lines print it without a stack trace.
    """
