"""Our networks against those of timm, facenet-pytorch and Keras: the same work on the same hardware, in turn.

    pip install -e '.[peers]' && pip install --no-deps facenet-pytorch
    python benchmarks/compare_peers.py --models inception_v4 --modes infer --image-sizes 299 --out peers.json
    python benchmarks/compare_peers.py --models inception_v3 --modes train --image-sizes 149 299 --out peers.json
    python benchmarks/compare_peers.py --table peers.json

The second command adds its cases to those of the first; a case that is measured again against the same peers replaces
the old one. On a GPU: `--device cuda --dtype bfloat16 --batch-sizes 64 128`, which nobody has run yet.

Every contestant is a process of its own, and of all of them only one runs at a time. In every round each takes its turn
of some seconds, so that what else the machine does hits all alike; a ratio is the median of the rounds' ratios. Beside
the networks run two contestants that only multiply matrices, with JAX and with PyTorch: the faster is the limit, and
the share of it that a network reaches counts its convolutions and dense layers alone.

Contestants: ours; timm (facenet-pytorch for inception_resnet_v1_facenet) eager, in NCHW and in channels-last; the same
in channels-last under torch.compile, which on a CPU needs a C++ compiler (g++), and folds BN into the convolutions only
where TORCHINDUCTOR_FREEZING=1 is set, as it is not by default; Keras on JAX. Each uses all cores, or one GPU.

The work. Inference: images float32 in [-1, 1], in memory, to logits. Training, on the same batch again and again:
softmax cross-entropy with label smoothing, gradients, clipping by their global norm, L2, RMSProp as TensorFlow's with
momentum, and an average of the parameters. Where it differs:

- Ours gives probabilities, a softmax more, as `inception-jax evaluate` has it; facenet-pytorch divides each embedding
  by its norm. In training ours starts from uint8 and reports errors, norms and variances beside the loss.
- timm's L2 and Keras' are the optimiser's, after the clipping; ours comes before it. Keras adds epsilon outside the
  root, starts from 0, and its networks have no dropout and no scale in BN.
- PyTorch cannot train facenet's network on a single image: its last BN sees one number for each feature.
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
    """Measures, or prints what was measured; returns 0, 1 if the file could not be written, 2 for a mistake, 130."""
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
        kept = f"; the cases before are in {args.out}." if args.out else "."
        print(f"\ncompare_peers: interrupted{kept}", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Our networks against timm's, facenet-pytorch's and Keras', in turn.")
    parser.add_argument("--models", nargs="+", default=list(cases.PYTORCH), metavar="MODEL")
    parser.add_argument("--modes", nargs="+", default=cases.MODES, choices=cases.MODES)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16], metavar="N")
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[299], metavar="PIXELS")
    parser.add_argument("--peers", nargs="+", default=cases.PEERS, choices=cases.PEERS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contestant in each round")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep everything, beside what is there")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="only print the tables of what was kept")
    parser.add_argument("--contestant", nargs=2, metavar=("NAME", "CASE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace, command: str) -> None:
    """Runs all cases, keeps each as soon as it is done, and prints the tables of all of them."""
    if args.rounds < 1 or not args.seconds > 0:
        raise UserError(f"{args.rounds} rounds of {args.seconds:g} seconds cannot be run; give 1 or more, above 0.")
    where = {"device": args.device, "dtype": args.dtype}
    wanted = cases.grid(args.modes, args.models, args.batch_sizes, args.image_sizes, **where)
    kept = report.read(args.out) if args.out else []
    if args.out:
        report.write(args.out, kept)  # now, and not after the first case, to find that it cannot be written
    measured: list[report.Record] = []
    for case in wanted:
        say(f"{case}:")
        measured.append(run(case, args) | {"command": command})
        if args.out:
            report.write(args.out, report.join(kept, measured))
    print(report.tables(report.join([], measured)))


def run(case: cases.Case, args: argparse.Namespace) -> report.Record:
    """The race of one case."""
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
        say(f"  {name:<20}is out: {why}")
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
    """The command that starts a contestant."""
    values = json.dumps(dataclasses.asdict(case))
    return [sys.executable, __file__, "--contestant", name, values, "--seconds", str(seconds)]


def environment(case: cases.Case) -> dict[str, str]:
    """Environment variables of the contestants, added to ours."""
    return {
        "JAX_PLATFORMS": case.device,
        "KERAS_BACKEND": "jax",
        # Several processes share the GPU; and all of them the same one, since PyTorch would use no other.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0],
    }


def serve(name: str, case: str, *, seconds: float) -> None:
    """The part of one contestant."""
    # What libraries print on standard output must not come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        contestant.serve(name, cases.Case(**json.loads(case)), seconds, sys.stdin, answers)


def print_file(path: Path) -> None:
    """Prints the tables of a file."""
    records = report.read(path)
    if not records:
        raise UserError(f"{path} has no cases; measure some with --out {path}.")
    print(report.tables(records))


def say(line: str) -> None:
    """Prints a line beside the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
