"""The command line: one class per verb, its fields the arguments; no logic of its own, nothing slow imported early."""

import atexit
import errno
import gc
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.cli import experiment_files
from inception_jax.cli.arguments import PROG
from inception_jax.cli.benchmark import Benchmark
from inception_jax.cli.compare import Compare
from inception_jax.cli.data import Data
from inception_jax.cli.evaluate import Evaluate
from inception_jax.cli.experiments import Experiments
from inception_jax.cli.models import Export, Import, Predict, Summary
from inception_jax.cli.train import Train
from inception_jax.errors import Preempted, RunFailed, UserError
from inception_jax.system import xla_flags

VERBS = (
    "train",
    "compare",
    "evaluate",
    "experiments",
    "summary",
    "import",
    "export",
    "predict",
    "data",
    "benchmark",
)
VERBS_OF = {"data": ("prepare", "check", "show"), "benchmark": ("train", "infer", "data", "save", "startup")}
Verb = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Experiments, tyro.conf.subcommand("experiments")]
    | Annotated[Summary, tyro.conf.subcommand("summary")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 1 for a run that failed, 2 for a mistake, 75 for SIGTERM, 130 for Ctrl-C."""
    is_script = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if is_script:
        _open_streams()
    try:
        code = _run(arguments)
        sys.stdout.flush()  # Here, where errors of writing are dealt with.
        return code
    except UserError as error:
        return _end(2, error)
    except RunFailed as error:
        return _end(1, error)
    except Preempted as error:
        return _end(75, error)
    except BrokenPipeError:  # The reader of the output, such as head, has closed it.
        _discard_output()
        return 141
    except KeyboardInterrupt:
        return _interrupted(arguments, is_script)
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Libraries turn it into errors of their own.
            return _interrupted(arguments, is_script)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None:
            _discard_output()
            return _end(1, f"the output cannot be written: {error.strerror}.")
        if problem := _device_problem():
            return _end(2, problem)
        raise


def _run(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        raise UserError(f"there is no verb {arguments[0]!r}; there are {', '.join(VERBS)}.")
    # tyro lists the verbs under a verb, but does not name the word that is none of them.
    names = VERBS_OF.get(arguments[0]) if arguments else None
    if names and len(arguments) > 1 and not arguments[1].startswith("-") and arguments[1] not in names:
        raise UserError(f"{arguments[0]} has no verb {arguments[1]!r}; it has {', '.join(names)}.")
    if arguments[:1] == ["--version"]:
        return _version()
    if arguments[:1] == ["train"] and "--help" in arguments[2:] and not arguments[1].startswith("-"):
        return _print_fields(arguments[1], arguments[2:])
    verb, flags = experiment_files.parse(
        Verb,
        arguments or ["--help"],
        prog=PROG,
        description=DESCRIPTION,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    xla_flags.set_flags()
    # Tracing makes millions of objects that stay; Python's default is to look all of them over at every 700th.
    gc.set_threshold(50_000, 20, 20)
    return verb(flags)


def _end(code: int, message: object) -> int:
    print(f"{PROG}: {message}", file=sys.stderr)
    return code


def _interrupted(arguments: list[str], is_script: bool) -> int:
    resumable = arguments[:1] in (["train"], ["compare"]) or arguments[:2] == ["data", "prepare"]
    resumable = resumable or (arguments[:1] == ["evaluate"] and "--out" in arguments)
    print(f"\n{PROG}: interrupted" + "; the same command goes on." * resumable, file=sys.stderr)
    if is_script:
        atexit.register(_exit_now, 130)
    return 130


def _open_streams() -> None:
    """Escapes what the output's encoding lacks, and discards what is written to a closed output."""
    for name in ("stdout", "stderr"):
        if stream := getattr(sys, name):
            stream.reconfigure(errors="backslashreplace")
        else:
            setattr(sys, name, open(os.devnull, "w"))


def _discard_output() -> None:
    # Python would write the rest at exit, and fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _device_problem() -> str | None:
    """Why JAX opens no device, when that is so."""
    if "jax" not in sys.modules:
        return None
    try:
        sys.modules["jax"].devices()
        return None
    except (AssertionError, RuntimeError) as error:
        wanted = f"JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']}: " if os.environ.get("JAX_PLATFORMS") else ""
        return f"JAX cannot open its devices: {wanted}{str(error).partition(chr(10))[0] or 'there is none of them'}."


DESCRIPTION = """Inception-v3, Inception-v4 and the Inception-ResNets of arXiv 1602.07261 in JAX and Flax.
--version prints what a bug report needs."""


def _version() -> int:
    from inception_jax.system import versions

    # As the commands have them, so that a flag with which no device can be opened is found here, too.
    xla_flags.set_flags()
    for line in versions.lines():
        print(line, flush=True)
    return 0


def _exit_now(code: int) -> None:
    # A program that is being compiled goes on in XLA's threads, and ends in a segmentation fault once JAX has taken its
    # devices down, which it does after this: atexit begins with the last.
    sys.stdout.flush()
    os._exit(code)


def _print_fields(path: str, flags: list[str]) -> int:
    runs = experiment_files.load_runs(path)
    named = dict(itertools.pairwise(flags)).get("--run", next(iter(runs)))
    _, run = experiment_files.choose_run(runs, named, path)
    experiment_files.override(run, ["--help"], prog=f"{PROG} train {path}")
    return 0
