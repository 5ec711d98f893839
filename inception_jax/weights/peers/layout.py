"""Layout of a peer's arrays: the name and the order of axes for each of ours."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import flax
import numpy as np

from inception_jax.weights.peers.names import Table

Path = tuple[str, ...]
"""("params", "stem_conv_1", "conv", "kernel")."""


@dataclasses.dataclass(frozen=True)
class PeerFormat:
    """Names and order of axes of a peer's arrays."""

    separator: str
    """Separator between the names of a layer and its array."""
    arrays: Mapping[str, str]
    """Names of convolutions' and dense layers' arrays: ours -> theirs."""
    norm_arrays: Mapping[str, str]
    """Names of batch normalisations' arrays: ours -> theirs; the peer does not store the others."""
    axes: Mapping[int, tuple[int, ...]]
    """Transposition of our kernels, HWIO and (in, out), to theirs, keyed by the number of axes."""
    counters: str | None = None
    """Name of an integer beside each batch normalisation without a part in inference, if any."""
    ignored: tuple[str, ...] = ()
    """Names of arrays to ignore, of a head for training only."""
    renumbered: bool = False
    """Whether layers are numbered throughout a session, so that only the order of the numbers identifies them."""


OURS = "inception_jax"
"""Format of networks without a peer: our paths joined by dots, arrays named and laid out as in PyTorch.

    block_a_1.branch_2.conv_1.conv.weight    OIHW
    block_a_1.branch_2.conv_1.bn.weight, .bias, .running_mean, .running_var
    classifier.weight, .bias
"""

_TORCH = PeerFormat(
    separator=".",
    arrays={"kernel": "weight", "bias": "bias"},
    norm_arrays={"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
    axes={4: (3, 2, 0, 1), 2: (1, 0)},
    counters="num_batches_tracked",
)

FORMATS: dict[str, PeerFormat] = {
    "timm": _TORCH,
    "keras": PeerFormat(
        separator="/",
        arrays={"kernel": "kernel", "bias": "bias"},
        norm_arrays={"bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
        axes={},
        renumbered=True,
    ),
    # The published files hold the classifier over identities that only training uses.
    "facenet": dataclasses.replace(_TORCH, ignored=("logits.weight", "logits.bias")),
    OURS: dataclasses.replace(_TORCH, counters=None),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array of ours and its counterpart in the peer."""

    ours: Path
    our_shape: tuple[int, ...]
    theirs: str | None
    """The peer's name; None if the array is 1 and not stored (Keras' batch normalisations have no scale)."""
    axes: tuple[int, ...]
    """Transposition of ours to theirs."""

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of the peer's array."""
        return tuple(self.our_shape[axis] for axis in self.axes)

    def to_theirs(self, array: Any) -> np.ndarray:
        """Copies our array in the peer's layout."""
        return np.array(np.transpose(np.asarray(array), self.axes), order="C")

    def to_ours(self, array: Any) -> np.ndarray:
        """Copies the peer's array in our layout; half precision becomes float32."""
        array = np.asarray(array)
        dtype = array.dtype if array.dtype.itemsize > 2 else np.dtype(np.float32)
        return np.array(np.transpose(array, np.argsort(self.axes)), dtype=dtype, order="C")

    @property
    def our_name(self) -> str:
        """Our name and shape for messages: "our params/stem_conv_2/conv/kernel (3, 3, 32, 32)"."""
        return f"our {'/'.join(self.ours)} {self.our_shape}"

    @property
    def their_name(self) -> str:
        """The peer's name and shape for messages: "conv2d_1/kernel (3, 3, 32, 32)"."""
        return f"{self.theirs} {self.their_shape}"


def entries(format: PeerFormat, table: Table, variables: Any) -> list[Entry]:
    """Entries for the leaves of `variables` (arrays or their shapes) whose layers are in the table."""
    found = []
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        layer, name = "/".join(path[1:-1]), path[-1]
        if layer not in table:
            continue
        arrays = format.norm_arrays if layer.endswith("bn") else format.arrays
        theirs = f"{table[layer]}{format.separator}{arrays[name]}" if name in arrays else None
        axes = format.axes.get(leaf.ndim, tuple(range(leaf.ndim)))
        found.append(Entry(path, tuple(leaf.shape), theirs, axes))
    return found


def our_table(variables: Any) -> Table:
    """Table of the format `OURS` for the layers of `variables`."""
    layers = {"/".join(path[1:-1]): None for path in flax.traverse_util.flatten_dict(variables)}
    return {layer: layer.replace("/", ".") for layer in layers}


def without_scales(variables: Mapping[Path, Any]) -> dict[Path, np.ndarray]:
    """Folds the scales of batch normalisations into the kernels and running means before them.

    In (k * x - mean) / std * scale + bias the scale may be of any sign, or 0. The function of the images stays the same
    in inference, not in training.
    """
    moved = {path: np.asarray(array) for path, array in variables.items()}
    for path in variables:
        if path[-2:] != ("bn", "scale"):
            continue
        _, *layer, _, _ = path
        scale = moved[path]
        if np.all(scale == 1) or ("params", *layer, "conv", "kernel") not in moved:
            continue  # normalisations after a dense layer stay: no peer without scales has one
        for target in (("params", *layer, "conv", "kernel"), ("batch_stats", *layer, "bn", "mean")):
            moved[target] = moved[target] * scale
        moved[path] = np.ones_like(scale)
    return moved


def counters(format: PeerFormat, table: Table, layers: Iterable[str]) -> list[str]:
    """Names of the peer's counters for the batch normalisations among our `layers`."""
    if format.counters is None:
        return []
    return [f"{table[ours]}{format.separator}{format.counters}" for ours in layers if ours.endswith("bn")]


def trunk_names(format: PeerFormat, table: Table) -> list[str]:
    """The peer's names of all arrays but those of the two heads."""
    return [
        f"{theirs}{format.separator}{array}"
        for ours, theirs in table.items()
        if not ours.startswith(("classifier", "aux_head"))
        for array in _arrays_of(format, ours)
    ]


def head_names(format: PeerFormat, table: Table) -> list[str]:
    """The peer's names of the classifier's arrays."""
    heads = [ours for ours in table if ours.startswith("classifier")]
    return [f"{table[ours]}{format.separator}{array}" for ours in heads for array in _arrays_of(format, ours)]


def is_parameter(format: PeerFormat, name: str) -> bool:
    """Whether an array belongs to a layer, by its name; Keras' readers give no others."""
    known = {*format.arrays.values(), *format.norm_arrays.values()}
    layer, _, array = name.rpartition(format.separator)
    return bool(layer) and (format.renumbered or array in known)


def _arrays_of(format: PeerFormat, ours: str) -> list[str]:
    leaf = ours.rpartition("/")[2]
    if leaf == "bn":
        return list(format.norm_arrays.values())
    # The convolutions before a normalisation have no bias.
    return [format.arrays["kernel"]] if leaf in ("conv", "dense") else list(format.arrays.values())


def classes_in(format: PeerFormat, table: Table, given: Mapping[str, np.ndarray]) -> int:
    """Number of outputs of the source's head; 1000 if that is incomplete, which `checks.check_source` reports."""
    layer = table.get("classifier/dense") or table["classifier"]
    kernel = given.get(f"{layer}{format.separator}{format.arrays['kernel']}")
    if kernel is not None and kernel.ndim == 2:
        return kernel.shape[format.axes.get(2, (0, 1)).index(1)]
    return 1000


def holds_aux_head(table: Table, given: Iterable[str]) -> bool:
    """Whether the source has arrays of the peer's auxiliary head."""
    heads = [theirs for ours, theirs in table.items() if ours.startswith("aux_head")]
    return any(name.startswith(head) for name in given for head in heads)
