"""What the verbs' arguments have in common."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.errors import UserError

PROG = "inception-jax"

arg = tyro.conf.arg
Directory = Annotated[str | None, arg(metavar="DIR")]


@dataclasses.dataclass(kw_only=True)
class Processes:
    """How a verb that runs in several processes finds the others."""

    distributed: bool = False
    """Join the other processes of a pod first; they are found on Cloud TPU, Slurm and GKE."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """Elsewhere: address of process 0,"""
    processes: Annotated[int | None, arg(metavar="N")] = None
    """how many processes there are,"""
    process_id: Annotated[int | None, arg(metavar="I")] = None
    """and which this is, from 0."""

    def join(self) -> None:
        """Joins them, if asked to; the next thing is to open the devices."""
        from inception_jax import steps

        steps.use_synchronous_cpu_dispatch()
        values = (self.coordinator, self.processes, self.process_id)
        if self.distributed or any(value is not None for value in values):
            from inception_jax.system import hosts

            hosts.join(*values)

    def first(self) -> bool:
        """Whether this is the process that writes for all of them."""
        import jax

        return jax.process_index() == 0


def refuse_extra(flags: Sequence[str], verb: str) -> None:
    """Raises UserError for arguments that a verb without an experiment was given too many."""
    if flags:
        raise UserError(f"{verb} does not take {' '.join(flags)}; see {PROG} {verb} --help.")
