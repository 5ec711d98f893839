"""Options of an evaluation."""

import dataclasses
from typing import Literal

from inception_jax.config import OnError


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Data set, crops and batch size of an evaluation."""

    crops: Literal[1, 10, 12, 144] = 1
    """Number of crops, as in `data.Protocol`."""
    scales: tuple[int, ...] = ()
    """Scales of the crops, as in `data.Protocol`."""
    data: str | None = None
    """The data source; None is the one the networks were trained on, where it is known and the same for all."""
    data_dir: str | None = None
    """Directory of prepared data sets, as in `config.DataConfig`."""
    exclude_list: str | None = None
    """File that lists the images to exclude, as in `data.excluded`."""
    on_error: OnError | None = None
    """Handling of broken images; None is as in the networks' own training, else "stop"."""
    image_size: int | None = None
    """Side of the networks' input in pixels; None is each network's own."""
    raw: bool = False
    """Use the raw parameters of runs rather than the averaged ones."""
    tta_batch: int | None = None
    """Crops per step over all devices; None chooses by the kind of devices."""
    threads: int | None = None
    """Threads that read and decode, as in `config.DataConfig`."""

    def flags(self) -> list[str]:
        """The command line's flags of the options that differ from their defaults."""
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        return [f"--{name.replace('_', '-')}" for name in given]
