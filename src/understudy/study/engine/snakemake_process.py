"""Snakemake in a process that ends with the one that started it.

    python -m understudy.study.engine.snakemake_process PARENT SIGNAL ARGUMENTS...

When the process PARENT is gone, this one gets SIGNAL: on SIGINT Snakemake takes its jobs out of the queue and leaves;
on SIGKILL the jobs that it has started on this machine see that it is gone and leave by themselves.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time


def main() -> None:
    """The command line above."""
    parent, number = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which nohup and scripts' `&` had ignored

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()
    from snakemake.cli import main as snakemake  # seconds, in which the other process may go

    snakemake(sys.argv[3:])


if __name__ == "__main__":
    main()
