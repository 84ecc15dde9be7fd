"""What the process that local workers are forked from imports, while the driver gets ready.

Whoever started it may end before that, for a mistake in what was typed: then it ends too, and does
not hold up whoever waits for the end of the command's output.
"""

import atexit
import gc
import os
import signal
import threading


def _end_with(parent: int, done: threading.Event) -> None:
    while not done.wait(0.05):
        if os.getppid() != parent:
            os._exit(0)


# Ctrl-C is the driver's business.
signal.signal(signal.SIGINT, signal.SIG_IGN)
_done = threading.Event()
_watch = threading.Thread(target=_end_with, args=(os.getppid(), _done), daemon=True)
_watch.start()

# Garbage is never looked for in what is imported here: that takes seconds, and a worker that did
# would copy the memory it shares.
gc.disable()
import busi_search.search.worker  # noqa: E402, F401

gc.freeze()
gc.enable()
# None of our threads runs when a worker is forked; those of numpy and scipy wait for work, and
# OpenBLAS expects forks.
_done.set()
_watch.join()
# It wrote nothing that has to be tidied when the driver is gone.
atexit.register(os._exit, 0)
