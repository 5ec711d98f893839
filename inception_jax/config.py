"""Configuration of a run: an `Experiment`, five frozen dataclasses of plain values.

The defaults are the paper's ImageNet recipe (arXiv 1602.07261, section 4). Where the paper is silent they follow the
released TF-Slim code or the Inception-v3 paper, as the field's docstring notes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from inception_jax.errors import UserError

Resize = Literal["bilinear", "bicubic", "area", "antialiased_bilinear", "antialiased_bicubic"]
"""Interpolation of pixels.

`bilinear` and `bicubic` read 4 and 16 pixels even if the image shrinks (TensorFlow's default). `antialiased_bilinear`
and `antialiased_bicubic` widen the kernel as the image shrinks (Pillow, and so timm). `area` averages the pixels that
become one, and is bilinear if the image grows.
"""

OnError = Literal["stop", "skip"]
"""Handling of a broken image."""

_LARGEST_FLOAT = 3.4028234663852886e38
"""Maximum of float32, in which the fields are computed with."""

PRETRAINED = "pretrained"
"""Stands for the network of `train.init_from` in `model.name`."""

SMALLEST_SIDE = 75
"""Minimum side of an image in pixels; a smaller one leaves Reduction-B nothing to reduce."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed numbers of a field, in words and as a predicate."""

    words: str
    contains: Callable[[Any], bool]


class AtLeast(Range):
    """Closed lower bound and optional open upper bound."""

    def __init__(self, minimum: float, *, below: float | None = None):
        if below is None:
            super().__init__(f"{minimum} or more", lambda v: v >= minimum)
        else:
            super().__init__(f"at least {minimum} and below {below}", lambda v: minimum <= v < below)


class Above(Range):
    """Open lower bound and optional closed upper bound."""

    def __init__(self, bound: float, *, up_to: float | None = None):
        if up_to is None:
            super().__init__(f"above {bound}", lambda v: v > bound)
        else:
            super().__init__(f"above {bound} and up to {up_to}", lambda v: bound < v <= up_to)


FRACTION = Range("above 0 and below 1", lambda v: 0 < v < 1)
THREE_COUNTS = Range("three numbers of 1 or more", lambda v: min(v) >= 1)
ONE_OR_THREE_SCALES = Range("one number or three, each above 0", lambda v: len(v) in (1, 3) and min(v) > 0)
THREE_ABOVE_ZERO = Range("three numbers above 0", lambda v: min(v) > 0)
RISING_FRACTIONS = Range("two rising fractions above 0 and up to 1", lambda v: 0 < v[0] <= v[1] <= 1)
RISING_RATIOS = Range("two rising ratios above 0", lambda v: 0 < v[0] <= v[1])


class MayChange:
    """Marks a field without influence on the trained numbers, which a resumed run may change."""


class FromWeights:
    """Marks a field that the weights of `train.init_from` bring along, unless it was set to other than its default."""


class OfPretrained(FromWeights):
    """Marks a field that the weights bring along only where `model.name` is `PRETRAINED`."""


class PerHost(MayChange):
    """Marks a field that may also differ between hosts."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "inception_resnet_v2"
    """One of `inception_jax.list_models()`, or 'pretrained': that of `train.init_from`, with its width and depths."""
    num_classes: Annotated[int | None, AtLeast(2)] = None
    """Number of classes; None is the data set's."""
    width: Annotated[float, Above(0), OfPretrained] = 1.0
    """Factor on the features of every convolution."""
    depths: Annotated[tuple[int, int, int] | None, THREE_COUNTS, OfPretrained] = None
    """Number of blocks at the 35, 17 and 8 grids; None is the network's own."""
    residual_scales: Annotated[tuple[float, ...], ONE_OR_THREE_SCALES, FromWeights] = (0.17, 0.10, 0.20)
    """Factor on each residual before the addition: one number, or one per grid (35, 17, 8). 1.0 is unscaled."""
    dropout_rate: Annotated[float, AtLeast(0, below=1)] = 0.2
    """Fraction of pooled features dropped in training (the paper keeps 0.8)."""
    aux_head: bool = False
    """TF-Slim's auxiliary classifier, in training only."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the convolutions; parameters, statistics and softmax stay float32."""
    bn_momentum: Annotated[float, AtLeast(0, below=1)] = 0.9997
    """Decay of the running BN statistics (TF-Slim), ramped as `optim.ema_decay`."""
    bn_statistics: Literal["replica", "global"] = "replica"
    """Whether BN normalises over each replica's images (the paper) or over those of all devices."""
    count_include_pad: Annotated[bool, FromWeights] = False
    """Whether 3x3 average pools count their padding, as timm's Inception-v3 does."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images and their preprocessing."""

    source: str = "digits"
    """digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME. A run whose images moved resumes from their new place."""
    data_dir: Annotated[str | None, PerHost] = None
    """Directory of tensorflow-datasets' prepared data sets; None is its default."""
    training_images: Annotated[int | None, AtLeast(1)] = None
    """Number of training images to use, always the same ones; None is all."""
    validation_images: Annotated[int | None, AtLeast(1)] = None
    """Number of validation images to use, always the same ones; None is all."""
    validation_fraction: Annotated[float, FRACTION] = 0.1
    """Fraction of each class held out for validation, always the same images, if a source has no validation split."""
    train_split: Annotated[str | None, MayChange] = None
    """Training split: a folder of `folder:`, or in tfds' syntax, such as 'train[:90%]'; None finds it by its name."""
    validation_split: Annotated[str | None, MayChange] = None
    """Validation split, as `train_split`, such as 'train[90%:]'; None finds it by its name or holds it out."""
    image_size: Annotated[int, AtLeast(SMALLEST_SIDE), FromWeights] = 299
    """Side of the square network input, in pixels; 75 or more."""
    crop_area: Annotated[tuple[float, float], RISING_FRACTIONS] = (0.05, 1.0)
    """Minimum and maximum fraction of the image's area in a training crop."""
    crop_aspect: Annotated[tuple[float, float], RISING_RATIOS] = (3 / 4, 4 / 3)
    """Minimum and maximum width / height of a training crop."""
    flip: bool = True
    """Mirror training images with probability 1/2."""
    colour: bool = True
    """Distort brightness, saturation, hue and contrast in training (TF-Slim)."""
    colour_strength: Annotated[float, Above(0, up_to=1)] = 1.0
    """Factor on the amounts of `colour`; 1 is TF-Slim's."""
    central_fraction: Annotated[float, Above(0, up_to=1), FromWeights] = 0.875
    """Fraction of each side kept by the central crop of evaluation."""
    resize: Annotated[Resize, FromWeights] = "bilinear"
    """Interpolation to `image_size` pixels: TensorFlow's two, area averages, or Pillow's two (timm)."""
    mean: Annotated[tuple[float, float, float], FromWeights] = (0.5, 0.5, 0.5)
    """Subtracted from the channels, which are in [0, 1]."""
    std: Annotated[tuple[float, float, float], THREE_ABOVE_ZERO, FromWeights] = (0.5, 0.5, 0.5)
    """Divisor of the channels after the mean is subtracted; with 0.5 and a mean of 0.5 the input is in [-1, 1]."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """Whether every training image is drawn equally often, or every class: its images are repeated as needed. An epoch
    is as many images either way."""
    threads: Annotated[int | None, AtLeast(1), PerHost] = None
    """Threads that read, decode and augment; None is one per available core."""
    prefetch: Annotated[int, AtLeast(1), PerHost] = 4
    """Number of batches to prepare ahead."""
    on_error: Annotated[OnError, MayChange] = "stop"
    """Whether a broken image stops the run, or is skipped: replaced by the next one and counted in the metrics."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser (TensorFlow's RMSProp unless named), its learning rate, and an average of the parameters."""

    name: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    """TensorFlow's RMSProp (the paper), SGD, or AdamW, whose rates are far smaller (0.001 is Adam's default)."""
    learning_rate: Annotated[float, Above(0)] = 0.045
    """Learning rate for the global batch, before any decay."""
    reference_batch: Annotated[int | None, AtLeast(1)] = None
    """Batch size that `learning_rate` is for; the rate is in proportion to `train.batch_size`. None uses
    `learning_rate` as it is."""
    head_rate: Annotated[float, Above(0)] = 1.0
    """Factor on the learning rate of the classifier and the auxiliary head."""
    schedule: Literal["exponential", "cosine"] = "exponential"
    """Whether the rate decays every `decay_epochs` (the paper), or by a cosine to zero at the end of the run, whose
    length in steps must then stay."""
    decay_rate: Annotated[float, Above(0, up_to=1)] = 0.94
    """Factor on the learning rate every `decay_epochs`; exponential schedule only."""
    decay_epochs: Annotated[float, Above(0)] = 2.0
    """Epochs from one decay to the next; exponential schedule only."""
    staircase: bool = True
    """Decay in steps rather than smoothly; exponential schedule only."""
    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    """Epochs of linear warm-up from zero; 0 disables it (the paper)."""
    weight_decay: Annotated[float, AtLeast(0)] = 4e-5
    """L2 on convolution and dense kernels (TF-Slim), or AdamW's decoupled decay of them, which is multiplied by the
    learning rate; 0 disables it."""
    clip_norm: Annotated[float | None, Above(0)] = 2.0
    """Maximum global gradient norm (section 4 of the AAAI text names clipping); None disables clipping."""
    rms_decay: Annotated[float, AtLeast(0, below=1)] = 0.9
    """Decay of the mean square; rmsprop only."""
    rms_epsilon: Annotated[float, Above(0)] = 1.0
    """Epsilon added to the mean square; rmsprop only."""
    rms_initial: Annotated[float, AtLeast(0)] = 1.0
    """Initial value of the mean square (TensorFlow: 1); rmsprop only."""
    epsilon_in_sqrt: bool = True
    """Add epsilon inside the root (TensorFlow) rather than outside (PyTorch); rmsprop only."""
    momentum: Annotated[float, AtLeast(0, below=1)] = 0.9
    """Momentum; the rate is applied before the buffer, as in TensorFlow. AdamW's b1. 0 disables it."""
    adam_b2: Annotated[float, AtLeast(0, below=1)] = 0.999
    """Decay of the second moment; adamw only."""
    adam_epsilon: Annotated[float, Above(0)] = 1e-8
    """Epsilon added to the root of the second moment; adamw only."""
    ema_decay: Annotated[float, AtLeast(0, below=1)] = 0.9999
    """Decay of the parameters' moving average, ramped as min(decay, (1+n)/(10+n))."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch size, and the intervals of logs and checkpoints."""

    batch_size: Annotated[int, AtLeast(1)] = 640
    """Images per step over all devices of all hosts (the paper: 20 replicas, 32 each)."""
    replicas: Annotated[int | Literal["auto"] | None, AtLeast(1)] = None
    """Parts of the batch with BN statistics, dropout and colours of their own, divided evenly between the devices; each
    device works through its part one replica after another, in the memory of one. None is one per device; auto takes
    the fewest that fit the memory."""
    epochs: Annotated[float, Above(0), MayChange] = 100.0
    """Length of the run in epochs, unless `steps` is given."""
    steps: Annotated[int | None, AtLeast(1), MayChange] = None
    """Length of the run in steps; None uses `epochs`."""
    label_smoothing: Annotated[float, AtLeast(0, below=1)] = 0.1
    """Fraction of the target spread over all classes (Inception-v3 paper)."""
    aux_weight: Annotated[float, AtLeast(0)] = 0.4
    """Weight of the auxiliary loss (TF-Slim)."""
    class_weights: str = "none"
    """Weights of the training images' loss by class: none; balanced, inversely proportional to the number of images of
    the class, with a mean of 1 over the images; or a table such as cat=2,dog=0.5, in which other classes have 1."""
    remat: Annotated[bool, MayChange] = False
    """Rematerialise each stage in the backward pass, keeping only its input: less memory, more time."""
    log_every: Annotated[int, AtLeast(1), MayChange] = 100
    """Steps between training records in metrics.jsonl; evaluations and checkpoints write one too."""
    checkpoint_every: Annotated[int, AtLeast(1), MayChange] = 1000
    """Steps between checkpoints."""
    keep: Annotated[int, AtLeast(1), MayChange] = 3
    """Number of newest checkpoints kept, besides the best one."""
    on_nonfinite: Annotated[Literal["stop", "rollback"], MayChange] = "stop"
    """Whether a non-finite loss stops the run, or rolls it back to the newest checkpoint to skip those images."""
    rollbacks: Annotated[int, AtLeast(0), MayChange] = 3
    """Maximum number of rollbacks before the run stops."""
    stage_norms: bool = False
    """Also log every stage's activations and gradient: activation_rms/STAGE, gradient_norm/STAGE."""
    dead_share: Annotated[float, Above(0, up_to=1), MayChange] = 0.999
    """Fraction of zeros before the average pool from which a network counts as dying (section 3.3)."""
    dead_steps: Annotated[int, AtLeast(1), MayChange] = 100
    """Consecutive steps at `dead_share` after which a warning is logged."""
    init_from: str | None = None
    """Run or checkpoint to start from (transfer learning); the head is kept for classes of the same name."""
    new_head: bool = False
    """Initialise the whole head anew with `init_from`."""
    freeze: str | None = None
    """Stages that are not trained, by the figures' names and separated by commas, such as stem,inception_a; all is
    every stage but the head. Their BN normalises by its running statistics, which stay."""
    unfreeze_epoch: Annotated[float | None, Above(0)] = None
    """Epoch from which the stages of `freeze` are trained too; None is never."""
    patience: Annotated[int | None, AtLeast(1), MayChange] = None
    """Number of evaluations in a row without a lower top-1 error of the averaged parameters after which the run ends;
    None is no limit."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Interval and batch size of evaluations."""

    every_epochs: Annotated[float, Above(0), MayChange] = 1.0
    """Epochs between evaluations; the last step is always evaluated."""
    batch_size: Annotated[int, AtLeast(1), MayChange] = 256
    """Images per evaluation step over all devices of all hosts."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Settings of a run."""

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
_HINTS = _hints_of(Experiment)
# Type, and ranges and marks, of each field, by its name in `to_flat_dict`.
_TYPES = {field: get_args(hint)[0] if get_origin(hint) is Annotated else hint for field, hint in _HINTS.items()}
_MARKERS = {field: getattr(hint, "__metadata__", ()) for field, hint in _HINTS.items()}


def _is_marked(field: str, mark: type) -> bool:
    return any(isinstance(marker, type) and issubclass(marker, mark) for marker in _MARKERS[field])


def check(experiment: Experiment) -> None:
    """Raises UserError with field, value and allowed values for the first value of another type or out of range.

    Numbers must also be finite, in float32.
    """
    _check_types(experiment)
    for field, value in to_flat_dict(experiment).items():
        ranges = [marker for marker in _MARKERS[field] if isinstance(marker, Range)]
        finite = all(abs(v) <= _LARGEST_FLOAT for v in _numbers(value))  # False for NaN too
        if not isinstance(value, str | None) and not (finite and all(allowed.contains(value) for allowed in ranges)):
            words = [allowed.words for allowed in ranges] + ([] if finite else ["finite in float32"])
            raise UserError(f"{field} is {value!r}; it must be {', '.join(words)}.")
    _check_rates(experiment)


def _check_rates(experiment: Experiment) -> None:
    """Raises UserError if a rate that is computed from several fields is not finite in float32."""
    o, batch = experiment.optim, experiment.train.batch_size
    rate = learning_rate(o, batch)
    if max(rate, rate * o.head_rate) > _LARGEST_FLOAT:
        raise UserError(
            f"optim.learning_rate {o.learning_rate!r} with optim.reference_batch {o.reference_batch!r}, "
            f"train.batch_size {batch!r} and optim.head_rate {o.head_rate!r} is a rate of {rate * o.head_rate:g}; it "
            "must be finite in float32."
        )


def learning_rate(optim: OptimConfig, batch_size: int) -> float:
    """Learning rate that is applied to batches of `batch_size` images, before any decay; see `reference_batch`."""
    return optim.learning_rate * (batch_size / optim.reference_batch if optim.reference_batch else 1.0)


def _numbers(value: Any) -> list[float]:
    """The numbers that a field's value is or has; whole ones too, since a float field may have one."""
    return [v for v in (value if isinstance(value, tuple | list) else (value,)) if isinstance(v, int | float)]


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
        return any(_has_type(value, part) for part in parts)
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
        return f"{', '.join(_type_in_words(part) for part in parts[:-1])}, or None"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, parts))}" if len(parts) > 1 else repr(parts[0])
    if get_origin(hint) is tuple:
        count = "" if parts[-1] is ... else f"{len(parts)} "
        return f"a tuple of {count}{'whole ' if parts[0] is int else ''}numbers"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text"}[hint]


def check_data(data: DataConfig, *, seed: int = 0) -> None:
    """Raises UserError as `check`, for a data section alone."""
    check(Experiment(seed=seed, data=data))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Converts an experiment to nested dictionaries of JSON values."""
    return dataclasses.asdict(experiment)


def to_flat_dict(experiment: Experiment) -> dict[str, Any]:
    """Converts an experiment to one dictionary: {"seed": 0, "model.name": ..., ...}."""
    flat = {}
    for name, value in to_dict(experiment).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{field}": v for field, v in value.items()})
        else:
            flat[name] = value
    return flat


def shared_fields(experiment: Experiment) -> dict[str, Any]:
    """Fields that all hosts must agree on, as in `to_flat_dict`."""
    return {field: value for field, value in to_flat_dict(experiment).items() if not _is_marked(field, PerHost)}


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """Inverse of `to_dict`, also after a round trip through JSON.

    Raises:
      UserError: a field is unknown or its value has another type; the message names it.
    """
    experiment = _build(Experiment, values, prefix="")
    _check_types(experiment)
    return experiment


def differences(ours: Experiment, theirs: Experiment) -> dict[str, tuple[Any, Any]]:
    """Fields that differ between two experiments, with both values.

    Fields marked `MayChange` or `PerHost` are left out, so that a run can resume with another length, schedule of logs
    and checkpoints, number of threads, use of memory or handling of broken images.
    """
    there = to_flat_dict(theirs)
    return {
        field: (value, there[field])
        for field, value in to_flat_dict(ours).items()
        if not _is_same(value, there[field]) and not _is_marked(field, MayChange)
    }


def with_fields(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with fields replaced, by their names in `to_flat_dict`."""
    sections: dict[str, dict[str, Any]] = {}
    for field, value in values.items():
        section, _, name = field.rpartition(".")
        sections.setdefault(section, {})[name] = value
    own = sections.pop("", {})
    changed = {name: dataclasses.replace(getattr(experiment, name), **new) for name, new in sections.items()}
    return dataclasses.replace(experiment, **changed, **own)


def split_by_hand(experiment: Experiment, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `settings` of weights that an experiment takes over, and those that it has set otherwise itself.

    Only fields marked `FromWeights` count. One that has its default was not set. The network itself is taken over where
    `model.name` is `PRETRAINED`.
    """
    own, default = to_flat_dict(experiment), to_flat_dict(Experiment())
    pretrained = experiment.model.name == PRETRAINED
    marked = {
        field: value
        for field, value in settings.items()
        if _is_marked(field, FromWeights) and (pretrained or not _is_marked(field, OfPretrained))
    }
    other = {field: value for field, value in marked.items() if not _is_same(value, own[field])}
    taken = {field: value for field, value in other.items() if _is_same(own[field], default[field])}
    overridden = {field: value for field, value in other.items() if field not in taken}
    return ({"model.name": settings["model.name"]} if pretrained else {}) | taken, overridden


def _is_same(ours: Any, theirs: Any) -> bool:
    """Whether two values of a field mean the same: one number for all three grids is three equal ones."""
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and 1 in (len(ours), len(theirs)):
        return len(set(ours + theirs)) == 1
    return ours == theirs


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
