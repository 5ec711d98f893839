"""Repeatedly killed comparison against an undisturbed one: both must end with the same results.

    python benchmarks/chaos.py                      # 20 kills, a few minutes
    python benchmarks/chaos.py --kills 5 --seed 3
    python benchmarks/chaos.py --signal INT         # Ctrl-C instead

`inception-jax compare` trains and compares two small runs, once undisturbed and once with signals at random moments:
during start-up, compilation, steps, saves and evaluations of either run. After each signal the same command is started
again. In the end the states of both runs, all of metrics.jsonl except times, and the figures must be identical. Exits
with 1 if anything differs.
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
FIGURES = ("curves.png", "curves.svg")

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
    """Run both comparisons and print the differences."""
    parser = argparse.ArgumentParser(description="Compare a repeatedly killed comparison with an undisturbed one.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the signals")
    parser.add_argument("--signal", choices=("KILL", "INT"), default="KILL")
    parser.add_argument("--directory", help="working directory to keep; by default a temporary one")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = Path(args.directory or stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        experiment = directory / "experiment.py"
        experiment.write_text(EXPERIMENT)
        command = [sys.executable, "-m", "inception_jax", "compare", str(experiment), "--workdir"]
        run_undisturbed([*command, str(directory / "undisturbed")], directory / "undisturbed.log")
        run_killed([*command, str(directory / "killed")], directory / "killed.log", args)
        found = differences(directory / "undisturbed", directory / "killed")
    print("\n".join(found) or "states, metrics and figures are identical")
    return 1 if found else 0


def run_undisturbed(command: list[str], log: Path) -> None:
    """Run the command to completion; raises if it fails."""
    begin = time.monotonic()
    with log.open("w") as file:
        subprocess.run(command, stdout=file, stderr=file, check=True)
    print(f"undisturbed: {time.monotonic() - begin:.0f} s", flush=True)


def run_killed(command: list[str], log: Path, args: argparse.Namespace) -> None:
    """Start the command and kill it after some lines of output, `args.kills` times; then let it complete."""
    rng = random.Random(args.seed)
    log.touch()
    for kills in itertools.count():
        with log.open("a") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        if kills < args.kills:
            # By lines, not seconds: most of the time is spent compiling, but most can go wrong after it.
            lines, seconds = rng.randint(0, 30), rng.uniform(0.0, 0.5)
            last_line = wait_for_lines(process, log, len(read_lines(log)) + lines)
            time.sleep(seconds)
            if process.poll() is None:
                os.killpg(process.pid, signal.Signals[f"SIG{args.signal}"])
                process.wait(timeout=30)
                print(f"kill {kills + 1} {seconds:.2f} s after: {last_line[:100]}", flush=True)
                continue
        if process.wait():
            raise SystemExit(f"the command exited with {process.returncode}; see {log}:\n{log.read_text()[-2000:]}")
        print(f"done after {kills} kills", flush=True)
        return


def wait_for_lines(process: subprocess.Popen, log: Path, count: int) -> str:
    """Wait until the log has `count` lines or the process has ended; return the last line."""
    while process.poll() is None and len(read_lines(log)) < count:
        time.sleep(0.01)
    return (read_lines(log) or ["no output"])[-1]


def read_lines(log: Path) -> list[str]:
    """Lines of the log so far."""
    return log.read_text(errors="replace").splitlines()


def differences(undisturbed: Path, killed: Path) -> list[str]:
    """Differences between the directories of two comparisons."""
    found = [name for name in FIGURES if (undisturbed / name).read_bytes() != (killed / name).read_bytes()]
    for run in sorted(path.parent for path in undisturbed.glob("*/config.json")):
        other = killed / run.name
        if without_times(run / "metrics.jsonl") != without_times(other / "metrics.jsonl"):
            found.append(f"{run.name}/metrics.jsonl")
        if not same_state(run, other):
            found.append(f"{run.name}: state")
    return [f"differs: {name}" for name in found]


def without_times(metrics: Path) -> list[dict[str, object]]:
    """Records of metrics.jsonl without times and what depends on them."""
    lines = map(json.loads, metrics.read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def same_state(run: Path, other: Path) -> bool:
    """Whether the newest checkpoints have the same arrays, step and next batch."""
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
