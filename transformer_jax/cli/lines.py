"""Lines of text on stdin, whatever is in them."""

from __future__ import annotations

import sys


def read_text(line: bytes, number: int, program: str) -> str:
    """A line's text without the space around it; what is no UTF-8 is replaced, and said."""
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        print(
            f"{program}: line {number} is not UTF-8; what cannot be read is replaced",
            file=sys.stderr,
        )
        return line.decode("utf-8", errors="replace").strip()
