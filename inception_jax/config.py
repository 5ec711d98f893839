"""The configuration of a run: an `Experiment`, five frozen dataclasses of plain values.

The defaults are the paper's ImageNet recipe (arXiv 1602.07261, section 4). Where the paper is silent they follow the
released TF-Slim code or the Inception-v3 paper, and the field's docstring says so.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from inception_jax.errors import UserError

Resize = Literal["bilinear", "bicubic", "area", "antialiased_bilinear", "antialiased_bicubic"]
"""Interpolation of pixels.

`bilinear` and `bicubic` look at 4 and 16 pixels even where the image shrinks, as TensorFlow does unless told otherwise.
`antialiased_bilinear` and `antialiased_bicubic` widen the kernel as the image shrinks, as Pillow and with it timm do.
`area` averages the pixels that become one, and is bilinear where the image grows.
"""

OnError = Literal["stop", "skip"]
"""Handling of a broken image."""

SMALLEST_SIDE = 75
"""Pixels; in a smaller image Reduction-B has nothing left to reduce."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The allowed values of a field, in words and as a test; None is always allowed."""

    words: str
    contains: Callable[[Any], bool]


class AtLeast(Range):
    """A closed lower bound, perhaps with an open upper one."""

    def __init__(self, least: float, *, below: float | None = None):
        if below is None:
            super().__init__(f"{least} or more", lambda v: v >= least)
        else:
            super().__init__(f"at least {least} and below {below}", lambda v: least <= v < below)


class Above(Range):
    """An open lower bound, perhaps with a closed upper one."""

    def __init__(self, bound: float, *, up_to: float | None = None):
        if up_to is None:
            super().__init__(f"above {bound}", lambda v: v > bound)
        else:
            super().__init__(f"above {bound} and up to {up_to}", lambda v: bound < v <= up_to)


THREE_COUNTS = Range("three counts of 1 or more", lambda v: min(v) >= 1)
ONE_OR_THREE_SCALES = Range("one number or three, each above 0", lambda v: len(v) in (1, 3) and min(v) > 0)
RISING_SHARES = Range("two rising shares above 0 and up to 1", lambda v: 0 < v[0] <= v[1] <= 1)
RISING_RATIOS = Range("two rising ratios above 0", lambda v: 0 < v[0] <= v[1])


class MayChange:
    """Marks a field that changes no number of a training, so that a resumed run may have another value."""


class PerHost(MayChange):
    """Marks a field that may also differ between the hosts of a run."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "inception_resnet_v2"
    """One of `inception_jax.list_models()`."""
    num_classes: Annotated[int | None, AtLeast(2)] = None
    """Classes of the classifier; None takes the data set's."""
    width: Annotated[float, Above(0)] = 1.0
    """Factor on the features of every convolution."""
    depths: Annotated[tuple[int, int, int] | None, THREE_COUNTS] = None
    """Blocks at the 35, 17 and 8 grids; None is the network's own."""
    residual_scales: Annotated[tuple[float, ...], ONE_OR_THREE_SCALES] = (0.17, 0.10, 0.20)
    """Factor on each residual before the addition: one number, or one per grid (35, 17, 8). 1.0 is unscaled."""
    dropout_rate: Annotated[float, AtLeast(0, below=1)] = 0.2
    """Fraction of pooled features dropped in training (the paper keeps 0.8)."""
    aux_head: bool = False
    """TF-Slim's auxiliary classifier, in training only."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the convolutions; parameters, statistics and softmax stay float32."""
    bn_momentum: Annotated[float, AtLeast(0, below=1)] = 0.9997
    """Decay of the running BN statistics (TF-Slim); use less for runs under some 10,000 steps."""
    bn_statistics: Literal["replica", "global"] = "replica"
    """Normalise over each device's images (the paper) or over those of all devices."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images and their preprocessing."""

    source: str = "digits"
    """digits, idx:PATH, folder:PATH or tfds:NAME."""
    data_dir: Annotated[str | None, PerHost] = None
    """Directory of tensorflow-datasets' prepared data sets; None is its default."""
    training_images: Annotated[int | None, AtLeast(1)] = None
    """Number of training images to use, always the same ones; None is all."""
    validation_images: Annotated[int | None, AtLeast(1)] = None
    """Number of validation images to use, always the same ones; None is all."""
    image_size: Annotated[int, AtLeast(SMALLEST_SIDE)] = 299
    """Side of the square network input, in pixels; 75 or more."""
    crop_area: Annotated[tuple[float, float], RISING_SHARES] = (0.05, 1.0)
    """Minimum and maximum fraction of the image's area in a training crop."""
    crop_aspect: Annotated[tuple[float, float], RISING_RATIOS] = (3 / 4, 4 / 3)
    """Minimum and maximum width / height of a training crop."""
    flip: bool = True
    """Mirror half of the training images."""
    colour: bool = True
    """Distort brightness, saturation, hue and contrast in training (TF-Slim)."""
    central_fraction: Annotated[float, Above(0, up_to=1)] = 0.875
    """Fraction of each side that evaluation sees."""
    resize: Resize = "bilinear"
    """Interpolation to `image_size` pixels: TensorFlow's two, area averages, or Pillow's two (timm)."""
    threads: Annotated[int | None, AtLeast(1), PerHost] = None
    """Threads that read, decode and augment; None is one per available core."""
    prefetch: Annotated[int, AtLeast(1), PerHost] = 4
    """Batches prepared ahead."""
    on_error: Annotated[OnError, MayChange] = "stop"
    """Whether a broken image stops the run, or is skipped: replaced by the next one and counted in the metrics."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """TensorFlow's RMSProp with a staircase rate, and an average of the parameters."""

    learning_rate: Annotated[float, Above(0)] = 0.045
    """Learning rate for the global batch, before any decay."""
    decay_rate: Annotated[float, Above(0, up_to=1)] = 0.94
    """Factor on the learning rate every `decay_epochs`."""
    decay_epochs: Annotated[float, Above(0)] = 2.0
    """Epochs from one decay to the next."""
    staircase: bool = True
    """Decay in steps rather than smoothly."""
    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    """Epochs of linear warm-up from zero; 0 disables it (the paper)."""
    weight_decay: Annotated[float, AtLeast(0)] = 4e-5
    """L2 on convolution and dense kernels (TF-Slim); 0 disables it."""
    clip_norm: Annotated[float | None, Above(0)] = 2.0
    """Maximum global gradient norm (section 4 of the AAAI text names clipping); None disables clipping."""
    rms_decay: Annotated[float, AtLeast(0, below=1)] = 0.9
    """Decay of RMSProp's mean square."""
    rms_epsilon: Annotated[float, Above(0)] = 1.0
    """Epsilon added to the mean square."""
    rms_initial: Annotated[float, AtLeast(0)] = 1.0
    """Initial value of the mean square (TensorFlow: 1)."""
    epsilon_in_sqrt: bool = True
    """Add epsilon inside the root (TensorFlow) rather than outside (PyTorch)."""
    momentum: Annotated[float, AtLeast(0, below=1)] = 0.9
    """Momentum; the rate is applied before the buffer, as in TensorFlow. 0 disables it."""
    ema_decay: Annotated[float, AtLeast(0, below=1)] = 0.9999
    """Decay of the parameters' moving average, ramped as min(decay, (1+n)/(10+n))."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch size, and the intervals of logs and checkpoints."""

    batch_size: Annotated[int, AtLeast(1)] = 640
    """Images per step over all devices of all hosts (the paper: 20 replicas, 32 each)."""
    epochs: Annotated[float, Above(0), MayChange] = 100.0
    """Length of the run in epochs, unless `steps` is given."""
    steps: Annotated[int | None, AtLeast(1), MayChange] = None
    """Length of the run in steps; None uses `epochs`."""
    label_smoothing: Annotated[float, AtLeast(0, below=1)] = 0.1
    """Fraction of the target spread over all classes (Inception-v3 paper)."""
    aux_weight: Annotated[float, AtLeast(0)] = 0.4
    """Weight of the auxiliary loss (TF-Slim)."""
    remat: Annotated[bool, MayChange] = False
    """Rematerialise each stage in the backward pass, keeping only its input: less memory, more time."""
    log_every: Annotated[int, AtLeast(1), MayChange] = 100
    """Steps between training lines in metrics.jsonl; there is one at evaluations and checkpoints too."""
    checkpoint_every: Annotated[int, AtLeast(1), MayChange] = 1000
    """Steps between checkpoints."""
    keep: Annotated[int, AtLeast(1), MayChange] = 3
    """Number of newest checkpoints kept, besides the best one."""
    on_nonfinite: Annotated[Literal["stop", "rollback"], MayChange] = "stop"
    """Whether a non-finite loss stops the run, or rolls back to the newest checkpoint and goes on with other images."""
    rollbacks: Annotated[int, AtLeast(0), MayChange] = 3
    """Maximum number of rollbacks before the run stops."""
    stage_norms: bool = False
    """Also log every stage's activations and gradient: activation_rms/STAGE, gradient_norm/STAGE."""
    dead_share: Annotated[float, Above(0, up_to=1), MayChange] = 0.999
    """Fraction of zeros before the average pool at which the network counts as dying (section 3.3)."""
    dead_steps: Annotated[int, AtLeast(1), MayChange] = 100
    """Consecutive steps at `dead_share` after which a warning is logged."""
    init_from: str | None = None
    """Run or checkpoint to start from (transfer learning); a head with other classes is initialised anew."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Interval and batch size of evaluations."""

    every_epochs: Annotated[float, Above(0), MayChange] = 1.0
    """Epochs between evaluations; the last step is always evaluated."""
    batch_size: Annotated[int, AtLeast(1), MayChange] = 256
    """Images per evaluation step over all devices of all hosts."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that determines a run's numbers."""

    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of initialisation, shuffling, augmentation and dropout."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


def _hints_of(section: type, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            found |= _hints_of(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            found[prefix + name] = hint
    return found


_SECTIONS = {name: type(value) for name, value in vars(Experiment()).items() if dataclasses.is_dataclass(value)}
# The type of each field, and its ranges and marks, by its name in `to_flat_dict`.
_TYPES = {
    field: get_args(hint)[0] if get_origin(hint) is Annotated else hint for field, hint in _hints_of(Experiment).items()
}
_MARKERS = {field: getattr(hint, "__metadata__", ()) for field, hint in _hints_of(Experiment).items()}


def _is_marked(field: str, mark: type) -> bool:
    return any(isinstance(marker, type) and issubclass(marker, mark) for marker in _MARKERS[field])


def check(experiment: Experiment) -> None:
    """Raises UserError, naming field, value and allowed values, at the first value of another type or out of range."""
    _check_types(experiment)
    for field, value in to_flat_dict(experiment).items():
        for marker in _MARKERS[field]:
            # `not contains` rather than the opposite comparison, so that NaN is refused too.
            if isinstance(marker, Range) and value is not None and not marker.contains(value):
                raise UserError(f"{field} is {value!r}; it must be {marker.words}.")


def _check_types(experiment: Experiment) -> None:
    for name, kind in _SECTIONS.items():
        if not isinstance(getattr(experiment, name), kind):
            raise UserError(f"{name} is {getattr(experiment, name)!r}; it must be a {kind.__name__}.")
    for field, hint in _TYPES.items():
        section, _, name = field.rpartition(".")
        owner: Any = getattr(experiment, section) if section else experiment
        value = getattr(owner, name)
        if not _has_type(value, hint):
            raise UserError(f"{field} is {value!r}; it must be {_type_in_words(hint)}.")


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value has a field's type; a whole number is a number, but neither True nor False is one."""
    parts = get_args(hint)
    if type(None) in parts:
        return value is None or _has_type(value, parts[0])
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in parts
    if get_origin(hint) is tuple:
        types = parts[:1] * len(value) if isinstance(value, tuple) and parts[-1] is ... else parts
        return isinstance(value, tuple) and len(value) == len(types) and all(map(_has_type, value, types))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_in_words(hint: Any) -> str:
    parts = get_args(hint)
    if type(None) in parts:
        return f"{_type_in_words(parts[0])}, or None"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if get_origin(hint) is tuple:
        count = "" if parts[-1] is ... else f"{len(parts)} "
        return f"a tuple of {count}{'whole ' if parts[0] is int else ''}numbers"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text"}[hint]


def check_data(data: DataConfig, *, seed: int = 0) -> None:
    """Raises UserError as `check`, for what is not a whole experiment."""
    check(Experiment(seed=seed, data=data))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as nested dictionaries of JSON values."""
    return dataclasses.asdict(experiment)


def to_flat_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as one dictionary: {"seed": 0, "model.name": ..., ...}."""
    flat = {}
    for name, value in to_dict(experiment).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{field}": v for field, v in value.items()})
        else:
            flat[name] = value
    return flat


def shared_fields(experiment: Experiment) -> dict[str, Any]:
    """The fields that all hosts of a run must agree on, as in `to_flat_dict`."""
    return {field: value for field, value in to_flat_dict(experiment).items() if not _is_marked(field, PerHost)}


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """The inverse of `to_dict`, also after a round trip through JSON.

    Raises:
      UserError: a field is not known or its value has another type; the message names it.
    """
    experiment = _build(Experiment, values, prefix="")
    _check_types(experiment)
    return experiment


def differences(ours: Experiment, theirs: Experiment) -> dict[str, tuple[Any, Any]]:
    """The fields in which two trainings differ, with both values.

    Fields that change no number of a training do not count: its length, what is written when, threads, what is kept in
    memory, and what a broken image does, so that a run that one has stopped can go on without it.
    """
    there = to_flat_dict(theirs)
    return {
        field: (value, there[field])
        for field, value in to_flat_dict(ours).items()
        if value != there[field] and not _is_marked(field, MayChange)
    }


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.') or 'the experiment'} is {values!r}; it must have fields with values.")
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"unknown field {prefix}{unknown[0]}; {cls.__name__} has {', '.join(hints)}.")
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _build(hints[name], value, prefix=f"{prefix}{name}.")  # type: ignore[arg-type]
        fields[name] = tuple(value) if isinstance(value, list) else value
    return cls(**fields)
