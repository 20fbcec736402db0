"""Wall and CPU seconds of programs that run in turn in one process, as a table of ratios."""

import statistics
import sys
import time

HEAD = "| work, peer | peer, s | ours, s | peer / ours | peer, CPU s | ours, CPU s | ratio |"


def timed(work):
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def say(text):
    """What is no row of the table."""
    print(f"  {text}", file=sys.stderr, flush=True)


def table():
    """Prints the head of the table."""
    print(HEAD)
    print("|---" * 7 + "|", flush=True)


def medians(works, rounds):
    """{name: median wall and CPU seconds} of works that run in turn, each warmed up already."""
    timings = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            timings[name].append(timed(work))
    return {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in timings.items()
    }


def row(name, peer, ours, unit=None):
    """Prints a row; peer and ours are wall and CPU seconds, unit the tokens that both took."""
    (peer_wall, peer_cpu), (wall, cpu) = peer, ours
    line = f"| {name} | {peer_wall:.2f} | {wall:.2f} | **{peer_wall / wall:.2f}** | "
    line += f"{peer_cpu:.2f} | {cpu:.2f} | {peer_cpu / cpu:.2f} |"
    if unit is not None:
        line += f" {unit / peer_wall:,.0f} and {unit / wall:,.0f} tokens/s |"
    print(line, flush=True)


def fastest(name, candidates):
    """The name of the candidate that takes least time, once all are warmed up."""
    for work in candidates.values():
        work()
    times = {key: wall for key, (wall, _) in medians(candidates, 2).items()}
    best = min(times, key=times.get)
    shown = ", ".join(f"{key} {seconds:.2f} s" for key, seconds in times.items())
    say(f"{name}, of {shown}: {best}")
    return best
