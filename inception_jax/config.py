"""The configuration of a run: an `Experiment`, five frozen dataclasses of plain values.

The defaults are the paper's ImageNet recipe (arXiv 1602.07261, section 4). Where the paper is silent they follow the
released TF-Slim code or the Inception-v3 paper, and the field's docstring says so.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

from inception_jax.errors import UserError

Resize = Literal["bilinear", "bicubic", "area", "antialiased_bilinear", "antialiased_bicubic"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "inception_resnet_v2"
    """One of `inception_jax.list_models()`."""
    num_classes: int | None = None
    """Classes of the classifier; None takes the data set's."""
    width: float = 1.0
    """Factor on the features of every convolution."""
    depths: tuple[int, int, int] | None = None
    """Blocks at the 35, 17 and 8 grids; None is the network's own."""
    residual_scales: tuple[float, ...] = (0.17, 0.10, 0.20)
    """Factor on each residual before the addition: one number, or one per grid (35, 17, 8). 1.0 is unscaled."""
    dropout_rate: float = 0.2
    """Fraction of pooled features dropped in training (the paper keeps 0.8)."""
    aux_head: bool = False
    """TF-Slim's auxiliary classifier, in training only."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the convolutions; parameters, statistics and softmax stay float32."""
    bn_momentum: float = 0.9997
    """Decay of the running BN statistics (TF-Slim); use less for runs under some 10,000 steps."""
    bn_statistics: Literal["replica", "global"] = "replica"
    """Normalise over each device's images (the paper) or over those of all devices."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images and their preprocessing."""

    source: str = "digits"
    """digits, idx:PATH, folder:PATH or tfds:NAME."""
    data_dir: str | None = None
    """Directory of tensorflow-datasets' prepared data sets; None is its default."""
    training_images: int | None = None
    """Number of training images to use, always the same ones; None is all."""
    validation_images: int | None = None
    """Number of validation images to use, always the same ones; None is all."""
    image_size: int = 299
    """Side of the square network input, in pixels; 75 or more."""
    crop_area: tuple[float, float] = (0.05, 1.0)
    """Minimum and maximum fraction of the image's area in a training crop."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Minimum and maximum width / height of a training crop."""
    flip: bool = True
    """Mirror half of the training images."""
    colour: bool = True
    """Distort brightness, saturation, hue and contrast in training (TF-Slim)."""
    central_fraction: float = 0.875
    """Fraction of each side that evaluation sees."""
    resize: Resize = "bilinear"
    """Interpolation to `image_size` pixels: TensorFlow's two, area averages, or Pillow's two (timm)."""
    threads: int | None = None
    """Threads that read, decode and augment; None is one per available core."""
    prefetch: int = 4
    """Batches prepared ahead."""
    on_error: Literal["stop", "skip"] = "stop"
    """Whether a broken image stops the run, or is skipped: replaced by the next one and counted in the metrics."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """TensorFlow's RMSProp with a staircase rate, and an average of the parameters."""

    learning_rate: float = 0.045
    """Learning rate for the global batch, before any decay."""
    decay_rate: float = 0.94
    """Factor on the learning rate every `decay_epochs`."""
    decay_epochs: float = 2.0
    """Epochs from one decay to the next."""
    staircase: bool = True
    """Decay in steps rather than smoothly."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero; 0 disables it (the paper)."""
    weight_decay: float = 4e-5
    """L2 on convolution and dense kernels (TF-Slim); 0 disables it."""
    clip_norm: float | None = 2.0
    """Maximum global gradient norm (section 4 of the AAAI text names clipping); None disables clipping."""
    rms_decay: float = 0.9
    """Decay of RMSProp's mean square."""
    rms_epsilon: float = 1.0
    """Epsilon added to the mean square."""
    rms_initial: float = 1.0
    """Initial value of the mean square (TensorFlow: 1)."""
    epsilon_in_sqrt: bool = True
    """Add epsilon inside the root (TensorFlow) rather than outside (PyTorch)."""
    momentum: float = 0.9
    """Momentum; the rate is applied before the buffer, as in TensorFlow. 0 disables it."""
    ema_decay: float = 0.9999
    """Decay of the parameters' moving average, ramped as min(decay, (1+n)/(10+n))."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch size, and the intervals of logs and checkpoints."""

    batch_size: int = 640
    """Images per step over all devices of all hosts (the paper: 20 replicas, 32 each)."""
    epochs: float = 100.0
    """Length of the run in epochs, unless `steps` is given."""
    steps: int | None = None
    """Length of the run in steps; None uses `epochs`."""
    label_smoothing: float = 0.1
    """Fraction of the target spread over all classes (Inception-v3 paper)."""
    aux_weight: float = 0.4
    """Weight of the auxiliary loss (TF-Slim)."""
    remat: bool = False
    """Rematerialise each stage in the backward pass, keeping only its input: less memory, more time."""
    log_every: int = 100
    """Steps between training lines in metrics.jsonl; there is one at evaluations and checkpoints too."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Number of newest checkpoints kept, besides the best one."""
    on_nonfinite: Literal["stop", "rollback"] = "stop"
    """Whether a non-finite loss stops the run, or rolls back to the newest checkpoint and goes on with other images."""
    rollbacks: int = 3
    """Maximum number of rollbacks before the run stops."""
    stage_norms: bool = False
    """Also log every stage's activations and gradient: activation_rms/STAGE, gradient_norm/STAGE."""
    dead_share: float = 0.999
    """Fraction of zeros before the average pool at which the network counts as dying (section 3.3)."""
    dead_steps: int = 100
    """Consecutive steps at `dead_share` after which a warning is logged."""
    init_from: str | None = None
    """Run or checkpoint to start from (transfer learning); a head with other classes is initialised anew."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Interval and batch size of evaluations."""

    every_epochs: float = 1.0
    """Epochs between evaluations; the last step is always evaluated."""
    batch_size: int = 256
    """Images per evaluation step over all devices of all hosts."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that determines a run's numbers."""

    seed: int = 0
    """Seed of initialisation, shuffling, augmentation and dropout."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


# (field, what it must be, test). A field that is None is not tested.
_RANGES = (
    ("seed", "0 or more", lambda v: v >= 0),
    ("model.num_classes", "2 or more", lambda v: v >= 2),
    ("model.width", "above 0", lambda v: v > 0),
    ("model.depths", "three counts of 1 or more", lambda v: min(v) >= 1),
    ("model.residual_scales", "one number or three, each above 0", lambda v: len(v) in (1, 3) and min(v) > 0),
    ("model.dropout_rate", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("model.bn_momentum", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("data.training_images", "1 or more", lambda v: v >= 1),
    ("data.validation_images", "1 or more", lambda v: v >= 1),
    ("data.image_size", "75 or more", lambda v: v >= 75),
    ("data.crop_area", "two rising shares above 0 and up to 1", lambda v: 0 < v[0] <= v[1] <= 1),
    ("data.crop_aspect", "two rising ratios above 0", lambda v: 0 < v[0] <= v[1]),
    ("data.central_fraction", "above 0 and up to 1", lambda v: 0 < v <= 1),
    ("data.threads", "1 or more", lambda v: v >= 1),
    ("data.prefetch", "1 or more", lambda v: v >= 1),
    ("optim.learning_rate", "above 0", lambda v: v > 0),
    ("optim.decay_rate", "above 0 and up to 1", lambda v: 0 < v <= 1),
    ("optim.decay_epochs", "above 0", lambda v: v > 0),
    ("optim.warmup_epochs", "0 or more", lambda v: v >= 0),
    ("optim.weight_decay", "0 or more", lambda v: v >= 0),
    ("optim.clip_norm", "above 0", lambda v: v > 0),
    ("optim.rms_decay", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("optim.rms_epsilon", "above 0", lambda v: v > 0),
    ("optim.rms_initial", "0 or more", lambda v: v >= 0),
    ("optim.momentum", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("optim.ema_decay", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("train.batch_size", "1 or more", lambda v: v >= 1),
    ("train.epochs", "above 0", lambda v: v > 0),
    ("train.steps", "1 or more", lambda v: v >= 1),
    ("train.label_smoothing", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("train.aux_weight", "0 or more", lambda v: v >= 0),
    ("train.log_every", "1 or more", lambda v: v >= 1),
    ("train.checkpoint_every", "1 or more", lambda v: v >= 1),
    ("train.keep", "1 or more", lambda v: v >= 1),
    ("train.rollbacks", "0 or more", lambda v: v >= 0),
    ("train.dead_share", "above 0 and up to 1", lambda v: 0 < v <= 1),
    ("train.dead_steps", "1 or more", lambda v: v >= 1),
    ("evaluation.every_epochs", "above 0", lambda v: v > 0),
    ("evaluation.batch_size", "1 or more", lambda v: v >= 1),
)


# Fields that may change when a run is resumed.
_MAY_CHANGE = (
    "data.data_dir",
    "data.threads",
    "data.prefetch",
    "data.on_error",
    "train.epochs",
    "train.steps",
    "train.remat",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.on_nonfinite",
    "train.rollbacks",
    "train.dead_share",
    "train.dead_steps",
    "evaluation.every_epochs",
    "evaluation.batch_size",
)


# Fields that may differ between the hosts of a run.
_PER_HOST = ("data.data_dir", "data.threads", "data.prefetch")


def check(experiment: Experiment) -> None:
    """Raises UserError, naming field, value and allowed values, at the first value out of its range."""
    values = to_flat_dict(experiment)
    for field, allowed, holds in _RANGES:
        value = values[field]
        # `not holds` rather than the opposite comparison, so that NaN is refused too.
        if value is not None and not holds(value):
            raise UserError(f"{field} is {value!r}; it must be {allowed}.")


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
    return {field: value for field, value in to_flat_dict(experiment).items() if field not in _PER_HOST}


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """The inverse of `to_dict`, also after a round trip through JSON; UserError names fields it does not know."""
    return _build(Experiment, values, prefix="")


def differences(ours: Experiment, theirs: Experiment) -> dict[str, tuple[Any, Any]]:
    """The fields in which two trainings differ, with both values.

    Fields that change no number of a training do not count: its length, what is written when, threads, what is kept in
    memory, and what a broken image does, so that a run that one has stopped can go on without it.
    """
    there = to_flat_dict(theirs)
    return {
        field: (value, there[field])
        for field, value in to_flat_dict(ours).items()
        if value != there[field] and field not in _MAY_CHANGE
    }


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
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
