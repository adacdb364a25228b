"""Times per operation from ONNX Runtime's profiler."""

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from device_eval.latency.result import OperationTime, Plan
from device_eval.runners.interface import FloatArray
from device_eval.runners.onnx import load_session, session_options


def onnx_profile(path: Path, image: FloatArray, plan: Plan) -> tuple[OperationTime, ...]:
    """Mean time of every node over `plan.runs` runs after `plan.warmup`, in the order they run.

    `image` is [1, H, W, 3]. Profiling slows a run down: the times compare operations, not models.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(plan.threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = load_session(path, options)
        feed = {session.get_inputs()[0].name: np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32)}
        for _ in range(plan.warmup + plan.runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return node_times(events, plan.runs)


def node_times(events: list[dict[str, Any]], runs: int) -> tuple[OperationTime, ...]:
    """Mean of each node's last `runs` kernel events, in the order the nodes first ran."""
    durations: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            durations[event["args"]["op_name"], name].append(float(event["dur"]))
    return tuple(OperationTime(kind, name, mean(taken[-runs:])) for (kind, name), taken in durations.items())
