"""Command line: one dataclass per verb, whose fields are its arguments. Slow modules are imported by the verbs."""

import atexit
import errno
import functools
import gc
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from inception_jax.cli import benchmark, data, experiment_files
from inception_jax.cli.arguments import PROG
from inception_jax.cli.compare import Compare
from inception_jax.cli.evaluate import Evaluate
from inception_jax.cli.experiments import Experiments
from inception_jax.cli.models import Export, Import, Predict, Summary
from inception_jax.cli.train import Train
from inception_jax.errors import Preempted, RunFailed, UserError
from inception_jax.system import xla_flags
from inception_jax.system.memory import is_out_of_memory

VERBS: dict[str, Any] = {
    "train": Train,
    "compare": Compare,
    "evaluate": Evaluate,
    "experiments": Experiments,
    "summary": Summary,
    "import": Import,
    "export": Export,
    "predict": Predict,
    "data": data.VERBS,
    "benchmark": benchmark.VERBS,
}
DESCRIPTIONS = {
    PROG: "Inception-v3, Inception-v4 and the Inception-ResNets of arXiv 1602.07261 in JAX and Flax.\n"
    "--version prints the versions and devices for a bug report.",
    "data": "Convert a data set, check every image of one, or draw crops of it.",
    "benchmark": "Measure training, inference, the input pipeline, checkpoints or start-up.",
}
HAVE_FIELDS = (Train, Compare, benchmark.MeasureSave)
"""Verbs that also take the fields of an experiment as flags; `experiment_files.override` parses those."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, or 1 for a failed run, 2 for an invalid request, 75 for SIGTERM, 130 for Ctrl-C."""
    is_script = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if is_script:
        _open_streams()
    try:
        code = _run(arguments)
        sys.stdout.flush()  # Here, so that an error of writing is handled below.
        return code
    except UserError as error:
        return _end(2, error)
    except RunFailed as error:
        return _end(1, error)
    except Preempted as error:
        return _end(75, error)
    except BrokenPipeError:  # The reader of the output, such as head, has exited.
        _discard_output()
        return 141
    except KeyboardInterrupt:
        return _interrupted(arguments, is_script)
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Some libraries wrap it.
            return _interrupted(arguments, is_script)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None:
            _discard_output()
            return _end(1, f"the output cannot be written: {error.strerror}.")
        if is_out_of_memory(error):
            reason = str(error).partition("\n")[0] or "Python could not allocate more"
            return _end(1, f"out of memory: {reason.rstrip('.')}.")
        if problem := _device_problem():
            return _end(2, problem)
        raise


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        return _print_version()
    if arguments[:1] == ["train"] and "--help" in arguments[2:] and not arguments[1].startswith("-"):
        return _print_fields(arguments[1], arguments[2:])
    verb, flags = parse_verb(arguments)
    xla_flags.set_flags()
    # Tracing creates millions of long-lived objects; by default Python scans them all at every 700th.
    gc.set_threshold(50_000, 20, 20)
    return verb(flags)


def parse_verb(arguments: list[str]) -> tuple[Any, list[str]]:
    """Parses a verb and its arguments; returns it and the remaining flags, the fields of an experiment.

    Ends the command for --help and for arguments that cannot be parsed.
    """
    words, verb = [PROG], VERBS
    while isinstance(verb, dict) and arguments and arguments[0] in verb:
        words, verb, arguments = [*words, arguments[0]], verb[arguments[0]], arguments[1:]
    parse = functools.partial(experiment_files.parse, prog=" ".join(words))
    if isinstance(verb, dict):  # No verb or an unknown one: tyro lists the verbs and exits.
        flags = arguments or ["--help"] * (verb is VERBS)
        return parse(_any_of(verb), flags, description=DESCRIPTIONS[words[-1]]), []
    config = (tyro.conf.FlagCreatePairsOff,)
    if verb in HAVE_FIELDS:
        return parse(verb, arguments, config=config, return_unknown_args=True)
    return parse(verb, arguments, config=config), []


def _any_of(verbs: dict[str, Any]) -> Any:
    """The union of verbs, from which tyro prints their list."""
    return Union[  # noqa: UP007 (of a tuple)
        tuple(
            Annotated[_any_of(kind), tyro.conf.subcommand(name, description=DESCRIPTIONS[name])]
            if isinstance(kind, dict)
            else Annotated[kind, tyro.conf.subcommand(name)]
            for name, kind in verbs.items()
        )
    ]


def _end(code: int, message: object) -> int:
    print(f"{PROG}: {message}", file=sys.stderr)
    return code


def _interrupted(arguments: list[str], is_script: bool) -> int:
    resumable = arguments[:1] in (["train"], ["compare"]) or arguments[:2] == ["data", "prepare"]
    resumable = resumable or (arguments[:1] == ["evaluate"] and "--out" in arguments)
    print(f"\n{PROG}: interrupted" + "; run the same command again to resume." * resumable, file=sys.stderr)
    if is_script:
        atexit.register(_exit_now, 130)
    return 130


def _open_streams() -> None:
    """Escapes characters that the output's encoding lacks; discards output to a closed stream."""
    for name in ("stdout", "stderr"):
        if stream := getattr(sys, name):
            stream.reconfigure(errors="backslashreplace")
        else:
            setattr(sys, name, open(os.devnull, "w"))


def _discard_output() -> None:
    # Otherwise Python writes the rest at exit and fails again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _device_problem() -> str | None:
    """The reason why JAX cannot open its devices, or None if it can or was not imported."""
    if "jax" not in sys.modules:
        return None
    try:
        sys.modules["jax"].devices()
        return None
    except (AssertionError, RuntimeError) as error:
        wanted = f"JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']}: " if os.environ.get("JAX_PLATFORMS") else ""
        return f"JAX cannot open its devices: {wanted}{str(error).partition(chr(10))[0] or 'there are none'}."


def _print_version() -> int:
    from inception_jax.system import versions

    # As for the verbs, so that a flag that prevents the devices from opening is found here, too.
    xla_flags.set_flags()
    for line in versions.lines():
        print(line, flush=True)
    return 0


def _exit_now(code: int) -> None:
    # A compilation that still runs in XLA's threads crashes when JAX closes its devices. JAX does that at exit, after
    # this function: atexit calls the functions registered last first.
    sys.stdout.flush()
    os._exit(code)


def _print_fields(path: str, flags: list[str]) -> int:
    runs = experiment_files.load_runs(path)
    name = dict(itertools.pairwise(flags)).get("--run", next(iter(runs)))
    _, run = experiment_files.choose_run(runs, name, path)
    experiment_files.override(run, ["--help"], prog=f"{PROG} train {path}")
    return 0
