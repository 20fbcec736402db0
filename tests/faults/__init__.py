"""What can befall a run, done to real ones: `python -m tests.faults --help`."""
