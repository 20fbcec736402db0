"""Lines of text on stdin, whatever is in them, and what is said of each on stdout."""

from __future__ import annotations

import codecs
import functools
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from transformer_jax.errors import UserError
from transformer_jax.interrupts import sure_interrupts

# Some lines without what is around them, and the number of the first; to the lines of output.
Answer = Callable[[Sequence[str], int], Iterable[str]]

_LONGEST = 1 << 26  # bytes of a line: what is longer is none, and may have no end


def answer_lines(
    program: str, make: Callable[[], Answer], chunk: int, around: str | None = None
) -> int:
    """Answers stdin on stdout in UTF-8, so many lines at a time.

    Args:
      program: its name, for what is said on stderr.
      make: opens the model.
      chunk: lines that are read and answered before the next are read.
      around: the characters that are taken off the ends of a line; None: all white space.

    Returns:
      0; 1 after an error of the user's; 130 after Ctrl-C.
    """
    try:
        with sure_interrupts():
            answer = make()
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")
            for lines, first in read_lines(program, chunk, around):
                for line in answer(lines, first):
                    print(line)
                sys.stdout.flush()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{program}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def read_lines(
    program: str, chunk: int, around: str | None = None
) -> Iterator[tuple[list[str], int]]:
    """So many lines of stdin at a time, without what is around them; and the first's number.

    A BOM is tolerated.

    Raises:
      UserError: a line has more than 64 MB.
    """
    lines = iter(functools.partial(sys.stdin.buffer.readline, _LONGEST + 1), b"")
    first = 1
    while read := list(itertools.islice(lines, chunk)):
        texts = [_text(line, number, program) for number, line in enumerate(read, first)]
        yield [text.strip(around) for text in texts], first
        first += len(read)


def _text(line: bytes, number: int, program: str) -> str:
    """A line's text; what is no UTF-8 is replaced, and said."""
    if len(line) > _LONGEST:
        raise UserError(f"line {number} has more than {_LONGEST:,} bytes. Divide it.")
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        print(
            f"{program}: line {number} is not UTF-8; what cannot be read is replaced",
            file=sys.stderr,
        )
        return line.decode("utf-8", errors="replace")
