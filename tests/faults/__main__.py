"""Does to real runs what can befall one, and prints what came of it.

Each fault is done to copies of one tiny translation run, by the commands of a user and in a
temporary folder. It is survived if the run then ends as if nothing had happened: all arrays of its
last checkpoint and all its losses are bitwise those of a run that nothing befell (to 1e-6 where it
went on on other devices). It is refused if the command ends with a message that names what is
wrong. Anything else has failed, and is silent if a wrong result came without a word. The exit code
is 1 if there is one such.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.commands import end_all
from tests.faults.faults import FAULTS
from tests.faults.lab import Lab
from tests.faults.report import Report, run_fault


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the faults and prints the table.

    Returns:
      0; 1 if a fault was silent or failed; 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    listed = [fault for fault in FAULTS if fault.in_short or not args.short]
    chosen = [fault for fault in FAULTS if fault.name in args.only] if args.only else listed
    report = Report(args.seed, args.short)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)  # nothing is left running then either
    # A job in the background of a shell ignores SIGINT, and so would all commands that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="faults_", ignore_cleanup_errors=True) as folder:
            lab = Lab(Path(folder), args.seed)
            for fault in chosen:
                run_fault(fault, lab, report, short=args.short)
    except KeyboardInterrupt:
        return 130
    finally:
        end_all()
    print(report.table(lab.counts))
    print(f"{report.summary()}; {time.monotonic() - began:.0f} s")
    return 1 if report.failed else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    faults = "".join(f"  {fault.name:18}{fault.what}\n" for fault in FAULTS)
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog=f"the faults:\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [fault.name for fault in FAULTS]
    add = parser.add_argument
    add("--seed", type=int, default=0, help="which bits, moments and files are hit (0)")
    add("--short", action="store_true", help="a few of each, in a minute or two")
    add(
        "--only", action="append", choices=names, metavar="NAME", help="this fault; may be repeated"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
