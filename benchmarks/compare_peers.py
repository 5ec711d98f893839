"""Speed and memory of our networks against timm, facenet-pytorch and Keras, in turn on the same hardware.

    pip install -e '.[peers]' && pip install --no-deps facenet-pytorch
    python benchmarks/compare_peers.py --models inception_v4 --modes infer --image-sizes 299 --out peers.json
    python benchmarks/compare_peers.py --models inception_v3 --modes train --image-sizes 149 299 --out peers.json
    python benchmarks/compare_peers.py --table peers.json

The second command adds its cases to those of the first; measuring a case again with the same contestants replaces it.
On a GPU: `--device cuda --dtype bfloat16 --batch-sizes 64 128`, not tested yet.

Every contestant is a process, and only one runs at a time. In every round each runs for some seconds, so that other
load affects all alike; a ratio is the median of the rounds' ratios. Two contestants only multiply matrices, with JAX
and with PyTorch: the faster is the limit. The fraction of it that a network reaches counts its convolutions and dense
layers only.

Contestants: ours; timm (facenet-pytorch for inception_resnet_v1_facenet) eager, in NCHW and in channels-last; the
latter with torch.compile, which on a CPU needs a C++ compiler (g++) and folds BN into convolutions only if
TORCHINDUCTOR_FREEZING=1 is set; Keras on JAX. Each uses all cores, or one GPU.

Inference: float32 images in [-1, 1], in memory, to logits. Training, repeatedly on the same batch: softmax
cross-entropy with label smoothing, gradients, clipping by global norm, L2, TensorFlow's RMSProp with momentum, and an
average of the parameters. Differences:

- Ours computes probabilities, one more softmax, as in `inception-jax evaluate`; facenet-pytorch normalises each
  embedding. In training ours starts from uint8 and reports errors, norms and variances beside the loss.
- timm and Keras apply L2 in the optimiser, after clipping; ours applies it before. Keras adds epsilon outside the root
  and starts from 0, and its networks have no dropout and no scale in BN.
- PyTorch cannot train facenet's network on a single image: its last BN gets one value per feature.
"""

import argparse
import dataclasses
import datetime
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from peers import cases, contestant, race, report

from inception_jax.errors import RunFailed, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure cases or print a file; returns 0, 1 if writing failed, 2 for a mistake, 130 if interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parse(arguments)
    try:
        if args.contestant:
            serve(*args.contestant, seconds=args.seconds)
        elif args.table:
            print_file(args.table)
        else:
            measure(args, shlex.join(["python", "benchmarks/compare_peers.py", *arguments]))
        return 0
    except UserError as error:
        print(f"compare_peers: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"compare_peers: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = f"; the finished cases are in {args.out}." if args.out else "."
        print(f"\ncompare_peers: interrupted{kept}", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Our networks against timm, facenet-pytorch and Keras, in turn.")
    parser.add_argument("--models", nargs="+", default=list(cases.PYTORCH), metavar="MODEL")
    parser.add_argument("--modes", nargs="+", default=cases.MODES, choices=cases.MODES)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16], metavar="N")
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[299], metavar="PIXELS")
    parser.add_argument("--peers", nargs="+", default=cases.PEERS, choices=cases.PEERS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of a contestant's turn")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="add the cases to this file")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="only print the tables of this file")
    parser.add_argument("--contestant", nargs=2, metavar=("NAME", "CASE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace, command: str) -> None:
    """Measure all cases, write each one when it is finished, and print the tables."""
    if args.rounds < 1 or not args.seconds > 0:
        raise UserError(
            f"--rounds is {args.rounds} and --seconds {args.seconds:g}; they must be 1 or more, and above 0."
        )
    where = {"device": args.device, "dtype": args.dtype}
    wanted = cases.grid(args.modes, args.models, args.batch_sizes, args.image_sizes, **where)
    kept = report.read(args.out) if args.out else []
    if args.out:
        report.write(args.out, kept)  # Fails before the first case if the file cannot be written.
    measured: list[report.Record] = []
    for case in wanted:
        say(f"{case}:")
        measured.append(run(case, args) | {"command": command})
        if args.out:
            report.write(args.out, report.join(kept, measured))
    print(report.tables(report.join([], measured)))


def run(case: cases.Case, args: argparse.Namespace) -> report.Record:
    """Measure one case."""
    outcome = race.race(
        {name: command(name, case, args.seconds) for name in cases.contestants(case, args.peers)},
        environment(case),
        args.rounds,
    )
    summary = report.summarize(case.mode, outcome.rates, outcome.facts)
    for name, rates in outcome.rates.items():
        unit, by = ("GFLOP/s", 1e-9) if name in cases.PRODUCTS else ("images/s", 1)
        say(f"  {name:<20}{'  '.join(f'{rate * by:,.3g}' for rate in rates)} {unit}")
    for name, why in outcome.failures.items():
        say(f"  {name:<20}failed: {why}")
    return {
        **dataclasses.asdict(case),
        "rounds": args.rounds,
        "seconds": args.seconds,
        **dataclasses.asdict(outcome),
        "summary": summary,
        "machine": report.machine(),
        "versions": report.versions(),
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def command(name: str, case: cases.Case, seconds: float) -> list[str]:
    """Command that starts a contestant."""
    values = json.dumps(dataclasses.asdict(case))
    return [sys.executable, __file__, "--contestant", name, values, "--seconds", str(seconds)]


def environment(case: cases.Case) -> dict[str, str]:
    """Environment variables of the contestants, in addition to ours."""
    return {
        "JAX_PLATFORMS": case.device,
        "KERAS_BACKEND": "jax",
        # All processes share one GPU: the first, the only one that PyTorch uses.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0],
    }


def serve(name: str, case: str, *, seconds: float) -> None:
    """Run one contestant in this process."""
    # Output of libraries must not mix with the answers on standard output.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        contestant.serve(name, cases.Case(**json.loads(case)), seconds, sys.stdin, answers)


def print_file(path: Path) -> None:
    """Print the tables of a file."""
    records = report.read(path)
    if not records:
        raise UserError(f"{path} has no cases; measure some with --out {path}.")
    print(report.tables(records))


def say(line: str) -> None:
    """Print a line to standard error, beside the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
