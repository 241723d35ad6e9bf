#!/usr/bin/env python3
"""Writes golden.tfevents with TensorBoard's own writer, and reads it back with its own reader.

usage: make_tensorboard_golden.py [EVENT_FILE_OR_DIRECTORY]    (needs: pip install tensorboard)

With an argument, nothing is written: the scalars that TensorBoard finds there are printed.
"""

import os
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def write(path):
    def value(tag, number):
        return summary_pb2.Summary.Value(tag=tag, simple_value=number)

    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    events = [
        event_pb2.Event(wall_time=1700000000.25, file_version="brain.Event:2"),
        event_pb2.Event(wall_time=1700000000.25, step=1, session_log=start),
        event_pb2.Event(wall_time=1700000000.25, step=1,
                        summary=summary_pb2.Summary(value=[value("train/loss", 2.5), value("train/|g|", 0.0)])),
        event_pb2.Event(wall_time=1700000000.25, step=300,
                        summary=summary_pb2.Summary(value=[value("train/loss", -1e-30)])),
        event_pb2.Event(wall_time=1700000000.25, step=2**40,
                        summary=summary_pb2.Summary(value=[value("validation/loss", float("inf"))])),
    ]
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def show(path):
    found = EventAccumulator(path)
    found.Reload()
    for tag in sorted(found.Tags()["scalars"]):
        print(tag, [(event.step, event.value) for event in found.Scalars(tag)])


if len(sys.argv) > 1:
    show(sys.argv[1])
else:
    golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.tfevents")
    write(golden)
    show(golden)
