"""The whole list of faults."""

from __future__ import annotations

from tests.faults import damage, disks, elsewhere, hostile, hosts, kills, numbers, refusals, stops
from tests.faults.cases import Fault

FAULTS = (
    Fault("bit-flips", "single bits of a finished checkpoint", damage.flips),
    Fault("checkpoint-files", "each file of a checkpoint, cut short and deleted", damage.files),
    Fault("run-files", "each file of a run damaged: for train.py and eval.py", damage.runs),
    Fault(
        "no-checkpoint", "a bit in each checkpoint, so that none is good", damage.all_checkpoints
    ),
    Fault("damaged-runs", "bits of a checkpoint, met by commands", damage.processes, at_once=2),
    Fault("kills", "SIGKILL at any moment, and while saving", kills.kills, at_once=2),
    Fault("signals", "SIGTERM and SIGINT, once and twice", stops.stops, at_once=2),
    Fault("signals-of-two", "the same to one of two processes", stops.stops_of_two, in_short=False),
    Fault(
        "elsewhere",
        "8 -> 1 -> 4 -> 2x4 devices, 1 <-> 2 processes",
        elsewhere.elsewhere,
        in_short=False,
    ),
    Fault("disks", "a full disk and failing writes while saving", disks.disks, at_once=2),
    Fault("lost-hosts", "a dead or stopped process of two", hosts.lost, in_short=False),
    Fault(
        "differing-hosts", "two processes with configs that differ", hosts.differing, in_short=False
    ),
    Fault("second-run", "a second run in the folder of a running one", hosts.second_run),
    Fault("changes", "going on with another model, optimizer, data, tokenizer", refusals.refusals),
    Fault("numbers", "batches that give NaN", numbers.numbers),
    Fault("hostile-files", "files with code that wants to be run", hostile.hostile),
)
