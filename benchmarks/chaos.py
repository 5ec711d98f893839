"""A comparison that is killed again and again, against an undisturbed one: nothing may be lost or differ.

    python benchmarks/chaos.py                      # 20 kills, some minutes
    python benchmarks/chaos.py --kills 5 --seed 3
    python benchmarks/chaos.py --signal INT         # Ctrl-C instead

Two small runs are compared by `inception-jax compare`. One comparison is never disturbed. The other gets a signal at
random moments: while it starts, compiles, steps, saves, evaluates, in the first run and in the second; and is started
again with the same command. In the end the states of both runs, every line of metrics.jsonl but for its times, and the
pictures must be the same, byte for byte. Exits with 1 where something differs.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = ("seconds", "images_per_second", "data_wait_share")
PICTURES = ("curves.png", "curves.svg")

EXPERIMENT = """
from inception_jax.config import DataConfig, EvaluationConfig, Experiment, ModelConfig, OptimConfig, TrainConfig

def runs():
    return {
        name: Experiment(
            model=ModelConfig(name=name, width=0.05, depths=(1, 1, 1), bn_momentum=0.9),
            data=DataConfig(source="digits", image_size=75, flip=False),
            optim=OptimConfig(ema_decay=0.9),
            train=TrainConfig(batch_size=16, steps=150, log_every=2, checkpoint_every=3),
            evaluation=EvaluationConfig(every_epochs=0.1, batch_size=128),
        )
        for name in ("inception_resnet_v1", "inception_v4")
    }
"""


def main() -> int:
    """Runs both comparisons and says what differs."""
    parser = argparse.ArgumentParser(description="A comparison under SIGKILL against an undisturbed one.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", choices=("KILL", "INT"), default="KILL")
    parser.add_argument("--directory", help="where to work, for a look at it afterwards; by default a temporary one")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Path(args.directory or stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        experiment = place / "experiment.py"
        experiment.write_text(EXPERIMENT)
        command = [sys.executable, "-m", "inception_jax", "compare", str(experiment), "--workdir"]
        undisturbed([*command, str(place / "calm")], place / "calm.log")
        disturbed([*command, str(place / "killed")], place / "killed.log", args)
        found = differences(place / "calm", place / "killed")
    print("\n".join(found) or "the states, the metrics and the pictures are the same")
    return 1 if found else 0


def undisturbed(command: list[str], log: Path) -> None:
    """Runs the command to its end; raises if it fails."""
    begin = time.monotonic()
    with log.open("w") as file:
        subprocess.run(command, stdout=file, stderr=file, check=True)
    print(f"undisturbed: {time.monotonic() - begin:.0f} s", flush=True)


def disturbed(command: list[str], log: Path, args: argparse.Namespace) -> None:
    """Starts the command, kills it when it has said some lines, and so on; the last start is left to end."""
    random_moment = random.Random(args.seed)
    log.touch()
    for start in itertools.count(1):
        with log.open("a") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        killed = start - 1
        if killed < args.kills:
            # By lines and not by seconds: most of a start's time goes into compiling, and most can go wrong after it.
            lines, more = random_moment.randint(0, 30), random_moment.uniform(0.0, 0.5)
            said = wait_for_lines(process, log, len(read_lines(log)) + lines)
            time.sleep(more)
            if process.poll() is None:
                os.killpg(process.pid, signal.Signals[f"SIG{args.signal}"])
                process.wait(timeout=30)
                print(f"kill {start} {more:.2f} s after: {said[:100]}", flush=True)
                continue
        if process.wait():
            raise SystemExit(f"start {start} ended with {process.returncode}; see {log}:\n{log.read_text()[-2000:]}")
        print(f"done after {killed} kills", flush=True)
        return


def wait_for_lines(process: subprocess.Popen, log: Path, count: int) -> str:
    """The last of so many lines of the log, or of fewer where the process has ended."""
    while process.poll() is None and len(read_lines(log)) < count:
        time.sleep(0.01)
    return (read_lines(log) or ["nothing"])[-1]


def read_lines(log: Path) -> list[str]:
    """The log lines so far."""
    return log.read_text(errors="replace").splitlines()


def differences(calm: Path, killed: Path) -> list[str]:
    """The differences between two directories of a comparison."""
    found = [name for name in PICTURES if (calm / name).read_bytes() != (killed / name).read_bytes()]
    for run in sorted(path.parent for path in calm.glob("*/config.json")):
        other = killed / run.name
        if timeless(run / "metrics.jsonl") != timeless(other / "metrics.jsonl"):
            found.append(f"{run.name}/metrics.jsonl")
        if not same_state(run, other):
            found.append(f"{run.name}: the states")
    return [f"differs: {name}" for name in found]


def timeless(metrics: Path) -> list[dict[str, object]]:
    """The lines without what the clock decides."""
    lines = map(json.loads, metrics.read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def same_state(run: Path, other: Path) -> bool:
    """Whether the newest checkpoints hold the same arrays at the same step, and the same next batch."""
    import jax
    import numpy as np

    from inception_jax import build, checkpoint

    states = []
    for directory in (run, other):
        saved = checkpoint.read(directory)
        template = build.build(saved.experiment).state_shapes()
        states.append((saved.step, saved.next_batch, jax.tree.leaves(saved.state(template))))
    (*ours, our_leaves), (*theirs, their_leaves) = states
    return ours == theirs and all(map(np.array_equal, our_leaves, their_leaves))


if __name__ == "__main__":
    sys.exit(main())
