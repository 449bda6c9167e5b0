"""Whether a long training keeps its memory: `python -m tests.benchmarks.soak` trains
for 30 minutes, saves every ten steps, and prints what the process holds."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def resident(process: int) -> float:
    """Megabytes of memory that a process holds (on Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "eqx_vit", "train", "--epochs", "100000"]
        command += ["--out", f"{folder}/run", "--save-every", "10", *arguments]
        with open(os.devnull, "w") as nowhere:
            training = subprocess.Popen(command, stdout=nowhere)
            times, sizes, started = [], [], time.monotonic()
            while time.monotonic() < started + 60 * options.minutes:
                time.sleep(10)
                assert training.poll() is None, "the training has ended"
                times.append((time.monotonic() - started) / 60)
                sizes.append(resident(training.pid))
            training.send_signal(signal.SIGTERM)
            assert training.wait(60) == 0
        last = Path(folder, "run", "metrics.csv").read_text().splitlines()[-1]
    times, sizes = np.array(times), np.array(sizes)
    epochs, steps = map(int, last.split(",")[:2])
    saves = steps / 10 / options.minutes
    print(f"{epochs} epochs in {options.minutes:g} minutes, {saves:.1f} saves a minute")
    for tenth in np.array_split(np.arange(len(times)), 10):
        print(f"{times[tenth[-1]]:5.1f} min {np.median(sizes[tenth]):7.0f} MB")
    half = len(times) // 2  # what is filled once is full by then
    growth = np.polyfit(times[half:], sizes[half:], 1)[0]
    print(f"growth in the second half: {1e3 * growth / saves:.0f} KB a save")
    return int(growth / saves > 0.1)  # what TensorStore loses: see docs/training.md


if __name__ == "__main__":
    sys.exit(main())
