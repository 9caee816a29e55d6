"""A task for workers that die or hang; a module that costs a worker no time to import."""

from __future__ import annotations

import os
import signal
import time


def obey(task: str) -> str:
    """What the task says, and the task in capitals."""
    if task == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(600)
    return task.upper()
