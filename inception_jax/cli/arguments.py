"""Arguments shared by several verbs."""

import dataclasses
import functools
from typing import Annotated

import tyro

from inception_jax.errors import UserError

PROG = "inception-jax"

arg = tyro.conf.arg
optional = functools.partial(arg, help_behavior_hint="")
"""As `arg`, for a flag whose default is left out of the help."""
Directory = Annotated[str | None, arg(metavar="DIR")]


@dataclasses.dataclass(kw_only=True)
class Processes:
    """Arguments of verbs that can run as several processes."""

    distributed: Annotated[bool, optional()] = False
    """Join the processes that Cloud TPU, Slurm or GKE started."""
    coordinator: Annotated[str | None, optional(metavar="HOST:PORT")] = None
    """Address of process 0, where JAX cannot find it by itself."""
    processes: Annotated[int | None, optional(metavar="N")] = None
    """Number of processes."""
    process_id: Annotated[int | None, optional(metavar="I")] = None
    """Index of this process, from 0."""
    heartbeat_timeout: Annotated[int | None, optional(metavar="SECONDS")] = None
    """Seconds after which a silent process counts as dead (30)."""

    def join(self) -> None:
        """Joins the other processes if any argument is set; must be called before the devices are opened."""
        from inception_jax import steps

        steps.use_synchronous_cpu_dispatch()
        values = (self.coordinator, self.processes, self.process_id)
        if self.distributed or any(value is not None for value in values):
            from inception_jax.system import hosts

            hosts.join(*values, self.heartbeat_timeout)
        elif self.heartbeat_timeout is not None:
            raise UserError("--heartbeat-timeout is for several processes; also give --distributed or --coordinator.")

    def first(self) -> bool:
        """Whether this is process 0, the one that writes."""
        import jax

        return jax.process_index() == 0
