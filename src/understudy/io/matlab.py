"""Vectors and names in a MATLAB file, read by SciPy in a process of its own: a damaged file crashes or hangs it.

python -m understudy.io.matlab FILE   # prints them as JSON
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from understudy.io.files import reading
from understudy.io.foreign import GB, MATLAB

SECONDS, MEMORY = 20, 2 * GB  # of the process: an honest file takes one second and 300 MB
_MOST = 1 << 20  # entries of a vector, names


class Content(NamedTuple):
    """What a permutation can be made of."""

    vectors: dict[str, list[int]]  # name -> a vector of numbers, truncated to integers
    names: list[list[str]]  # of each array of structures, the field `name`


def read_mat(path: str | Path) -> Content:
    """The vectors and names of a file; `UnderstudyError` where it is none, or SciPy crashes or hangs on it."""
    with reading(path, MATLAB):
        with open(path, "rb"):  # absent, no permission
            pass
        command = [sys.executable, "-m", __name__, str(path)]
        try:
            # one thread: those of a large machine would use up the memory by their stacks alone
            alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, timeout=2 * SECONDS, check=False, env=alone)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"reading it takes more than {2 * SECONDS} seconds") from error
        if done.returncode < 0:  # a signal: the crash of a library, or the limit of its time
            raise ValueError("reading it crashes, or takes too long")
        if done.returncode:
            raise ValueError((done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1])
        return Content(*json.loads(done.stdout))


def _limit() -> None:
    limits = {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_CPU: SECONDS, resource.RLIMIT_CORE: 0}
    for name, most in limits.items():
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def _main(path: str) -> None:
    _limit()
    import numpy as np
    import scipy.io

    content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=True)
    arrays = {key: v for key, v in content.items() if isinstance(v, np.ndarray) and v.size <= _MOST}
    structs = [value for value in arrays.values() if value.dtype.names and "name" in value.dtype.names]
    names = [[n if isinstance(n, str) else "" for n in np.atleast_1d(struct["name"])] for struct in structs]
    vectors = {k: v for k, v in arrays.items() if v.ndim == 1 and v.dtype.kind in "iuf" and np.isfinite(v).all()}
    json.dump([{k: v.astype(np.int64).tolist() for k, v in vectors.items() if v.size}, names], sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1])
