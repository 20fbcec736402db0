"""A command's process ends with its code, after all that a usual end waits for."""

import subprocess
import sys

PROGRAM = """
import atexit, threading, time
from transformer_jax.cli.ending import end_process

atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("main", end="")
end_process(3)
"""


def test_a_process_ends_with_its_code_after_its_threads_and_hooks():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "mainthread\nat exit\n", "")
