"""Time and size of DICOM: noise of four channels and three classes, which compresses as little as can be.

python benchmarks/export_dicom.py --slices 200 --edge 256
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from understudy.release.dicom import export_dicom
from understudy.slices import SliceWriter, evenly_coded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--edge", type=int, default=256, help="pixels")
    given = parser.parse_args()
    rng, n, edge = np.random.default_rng(0), given.slices, given.edge
    channels, classes = ["T1w", "T1wGd", "T2w", "FLAIR"], evenly_coded({1: "NCR/NET", 2: "ED", 4: "ET"})
    with tempfile.TemporaryDirectory() as folder:
        writer = SliceWriter(Path(folder) / "set", channels, classes, edge, (1.0, 1.0, 1.0), ("P", "L"))
        for start in range(0, n, 64):
            k = min(64, n - start)
            images = rng.integers(0, 256, (k, 4, edge, edge), np.uint8)
            labels = rng.integers(0, 4, (k, edge, edge), np.uint8)
            writer.append(images, labels, [{"id": f"s{start + i}"} for i in range(k)])
        made = writer.close(source="synthetic")
        out, begin, used = Path(folder) / "dicom", time.monotonic(), time.process_time()
        export_dicom(made.folder, out, progress=False)
        seconds, cpu = time.monotonic() - begin, time.process_time() - used
        size = sum(path.stat().st_size for path in out.rglob("*.dcm"))
    print(
        f"{n} slices of {edge} x {edge}: {seconds / n:.3f} s and {size / n / 1e6:.3f} MB a slice ({cpu / n:.3f} s CPU)"
    )


if __name__ == "__main__":
    main()
