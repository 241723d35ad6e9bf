#!/usr/bin/env python3
"""Shows what a large prepared data set costs: time until the first step is done, and memory of one and of several workers.

    tools/measure_data.py [--build build/release] [--gigabytes 20] [--workers 4] [--folder DIR]

Writes two files of random uint8 images (2 MB and the large one, which is kept when --keep is given), trains a small network on
each for one step, three times in turns, and compares medians. Then it trains on the large file with one worker and with several,
and prints what /proc/PID/smaps says of each: private (what a worker has for itself), resident and proportional memory, and how much
of the file's mapping is resident.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

CONFIGURATION = """
[run]
seed = 1
[data]
train = "{data}"
[model]
type = "mlp"
hidden = [32]
[optimizer]
type = "sgd"
learning_rate = 0.01
[train]
steps = {steps}
micro_batches = 4
micro_batch_size = 32
log_every = 100
"""


def configuration(folder, data, steps):
    path = folder / "run.toml"
    path.write_text(CONFIGURATION.format(data=data, steps=steps))
    return path


def train(lockstep, folder, data, steps, workers=1):
    launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(workers)] if workers > 1 else []
    command = launcher + [lockstep, "train", configuration(folder, data, steps), "--output", folder / "run", "--overwrite"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers_of(process, lockstep):
    """Process ids of the workers that `process` is or has started."""
    found, waiting = [], [process.pid]
    while waiting:
        pid = waiting.pop()
        try:
            if os.readlink(f"/proc/{pid}/exe") == str(lockstep):
                found.append(pid)
            for task in os.listdir(f"/proc/{pid}/task"):
                waiting += pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except OSError:
            pass
    return found


def memory(pid, data):
    """MiB: private and proportional memory, and the resident part of the data file's mapping."""
    totals, of_data, inside = dict.fromkeys(("Rss", "Pss", "Private_Dirty"), 0), 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, rest = line.partition(":")
        if " " in key or "-" in key:
            inside = line.endswith(str(data))
        elif key in totals:
            totals[key] += int(rest.split()[0]) / 1024
            of_data += int(rest.split()[0]) / 1024 if inside and key == "Rss" else 0
    return totals | {"mapped data": of_data}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--folder", help="where the files go (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the large file for the next call with the same --folder")
    options = parser.parse_args()
    binaries = pathlib.Path(options.build).resolve() / "bin"
    lockstep = binaries / "lockstep"
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = pathlib.Path(scratch)
        small = folder / "small.h5"
        large = (pathlib.Path(options.folder).resolve() if options.folder else folder) / "large.h5"
        subprocess.run([binaries / "data_benchmark", "write", small, "2500"], check=True)
        samples = int(options.gigabytes * 1e9 / 784)
        if not large.exists():
            begin = time.monotonic()
            subprocess.run([binaries / "data_benchmark", "write", large, str(samples)], check=True)
            print(f"writing {large.stat().st_size / 1e9:.2f} GB: {time.monotonic() - begin:.1f} s")
        try:
            seconds = {small: [], large: []}
            for _ in range(3):
                for data, times in seconds.items():
                    begin = time.monotonic()
                    assert train(lockstep, folder, data, 1).wait() == 0
                    times.append(time.monotonic() - begin)
            for data, times in seconds.items():
                print(f"one step on {data.stat().st_size / 1e9:8.3f} GB: {statistics.median(times):.3f} s (of {sorted(times)})")
            for workers in (1, options.workers):
                process = train(lockstep, folder, large, 1000000000, workers)
                time.sleep(20)
                found = [memory(pid, large) for pid in workers_of(process, lockstep)]
                process.terminate()
                process.wait()
                assert len(found) == workers, f"{len(found)} of {workers} workers are running"
                for rank, figures in enumerate(found):
                    print(f"{workers} workers, {rank}: " + ", ".join(f"{name} {value:.0f} MiB" for name, value in figures.items()))
                print(f"{workers} workers together: proportional memory {sum(f['Pss'] for f in found):.0f} MiB, "
                      f"private {sum(f['Private_Dirty'] for f in found):.0f} MiB")
            steps = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
            steps = [line for line in steps if "data_seconds" in line]
            names = ("data_seconds", "compute_seconds", "exposed_communication_seconds", "optimizer_seconds", "host_seconds")
            for part in (steps[:1], steps[1:len(steps) // 2], steps[len(steps) // 2:]):
                if part:
                    share = sum(line["data_seconds"] for line in part) / sum(line[name] for line in part for name in names)
                    print(f"steps {part[0]['step']} to {part[-1]['step']}: share of data_seconds {100 * share:.2f} %")
        finally:
            if not options.keep:
                large.unlink()


if __name__ == "__main__":
    main()
