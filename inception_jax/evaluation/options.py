"""What a user asks of an evaluation."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Which images networks are evaluated on, and how they are shown them."""

    crops: Literal[1, 10, 12, 144] = 1
    """As in `data.Protocol`."""
    scales: tuple[int, ...] = ()
    """As in `data.Protocol`."""
    data: str | None = None
    """The source; None is what the networks were trained on, where that is known and the same for all."""
    data_dir: str | None = None
    """As in `config.DataConfig`."""
    exclude_list: str | None = None
    """File with the images that are not counted, as in `data.excluded`."""
    on_error: Literal["stop", "skip"] | None = None
    """What a broken image does; None is as in the networks' own training, else "stop"."""
    image_size: int | None = None
    """Side of the networks' input in pixels; None is each one's own."""
    raw: bool = False
    """Take the parameters of runs as they are trained rather than averaged."""
    tta_batch: int | None = None
    """Crops through a network at once, over all devices; None is what suits these."""
    threads: int | None = None
    """As in `config.DataConfig`."""

    def flags(self) -> list[str]:
        """The command line's names of what is not as it is by default."""
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        return [f"--{name.replace('_', '-')}" for name in given]
