"""Heads in a peer's file: its own classifier, one dense layer that can serve as one, or another head."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from inception_jax.errors import UserError
from inception_jax.weights.peers import keras, layout
from inception_jax.weights.peers.copies import Copy
from inception_jax.weights.peers.layout import PeerFormat

_SHOWN = 6
ADVICE = "give --num-classes N for a new head of N classes, or --num-classes 0 for the pooled features alone"
"""Advice for a head that cannot be imported."""


@dataclasses.dataclass(frozen=True)
class Arranged:
    """A copy's arrays with the head in the peer's own names, as far as it can be a classifier."""

    arrays: dict[str, np.ndarray]
    """The trunk's, the auxiliary head's and the classifier's arrays, and those that misfit."""
    has_head: bool
    left_out: dict[str, np.ndarray]
    """Arrays of layers that are not part of our network, by their names in the file."""


def arrange(peer: PeerFormat, copy: Copy, features: int, objection: str, *, new_head: bool) -> Arranged:
    """Separates a copy's trunk and head from the layers that are not ours.

    Args:
      peer: format of the source.
      copy: copy of the network.
      features: number of pooled features, the inputs of a classifier.
      objection: why a dense layer on the trunk is no classifier of ours, or "".
      new_head: whether the head will be replaced, so that any head will do.

    Raises:
      UserError: the head is not one of ours and `new_head` is not set.
    """
    own, stages = set(layout.head_names(peer, copy.table)), _stages(peer, copy)
    surplus = {
        name: array
        for name, array in copy.arrays.items()
        if layout.is_parameter(peer, name)
        and name not in {*own, *peer.ignored}
        and name.split(peer.separator)[0] not in stages
    }
    others = {f"{copy.prefix}{name}": array for name, array in surplus.items()} | dict(copy.beside)
    # A vector alone is no layer: the weights of the classes in a loss, a counter of updates.
    layers = {name: array for name, array in others.items() if peer.renumbered or array.ndim > 1}
    arrays = {
        name: array
        for name, array in copy.arrays.items()
        if name not in surplus and name not in peer.ignored and _is_network(peer, name, stages | _first(peer, own))
    }
    has_head = any(name in arrays for name in own)
    if not layers and (new_head or not (has_head and objection)):
        if not has_head and not new_head:
            raise UserError(f"it has no classifier, only the trunk (Keras: include_top=False, notop): {ADVICE}.")
        return Arranged(arrays, has_head, others)
    adopted = {} if has_head or objection else _adopt(peer, copy, others, features)
    if adopted:
        return Arranged(arrays | adopted, True, {})
    if not new_head:
        reason = objection or f"its head is not one dense layer on the {features} pooled features"
        listed = f" ({describe(others)})" if others else ""
        raise UserError(f"{reason}{listed}: {ADVICE}.")
    dropped = {name: array for name, array in arrays.items() if name in own}
    others |= {f"{copy.prefix}{name}": array for name, array in dropped.items()}
    return Arranged({name: arrays[name] for name in arrays if name not in own}, False, others)


def describe(arrays: Mapping[str, np.ndarray]) -> str:
    """Names and shapes of arrays that were left out, the first of them if there are many."""
    shown = [f"{name} {array.shape}" for name, array in list(arrays.items())[:_SHOWN]]
    more = len(arrays) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def objection(configuration: Mapping[str, Any]) -> str:
    """Why the head of a Keras model, as its configuration has it, is no classifier of ours; "" if it may be one."""
    layers = list(keras.layers_of(configuration))
    kinds = [kind for kind, _ in layers]
    for kind in ("GlobalMaxPooling2D", "Flatten"):
        if kind in kinds:
            return f"its head stands on {kind}, where ours averages the features"
    dense = [values for kind, values in layers if kind == "Dense"]
    if dense and dense[-1].get("activation") not in ("softmax", "linear", "sigmoid", None):
        return f"its last layer has the activation {dense[-1]['activation']}"
    if dense and dense[-1].get("activation") == "sigmoid" and dense[-1].get("units") != 1:
        return f"its {dense[-1].get('units')} outputs are sigmoids, which do not exclude each other as classes do here"
    return ""


def _stages(peer: PeerFormat, copy: Copy) -> set[str]:
    """First parts of the names of the trunk and the auxiliary head."""
    return {
        theirs.split(peer.separator if not peer.renumbered else "/")[0]
        for ours, theirs in copy.table.items()
        if not ours.startswith("classifier")
    }


def _first(peer: PeerFormat, names: set[str]) -> set[str]:
    return {name.split(peer.separator)[0] for name in names}


def _is_network(peer: PeerFormat, name: str, stages: set[str]) -> bool:
    """Whether an array is one of the network's or would have to be: all but counters, and states of a trainer."""
    first = name.split(peer.separator)[0]
    return first in stages and not (peer.counters and name.endswith(f"{peer.separator}{peer.counters}"))


def _adopt(peer: PeerFormat, copy: Copy, others: Mapping[str, np.ndarray], features: int) -> dict[str, np.ndarray]:
    """One dense layer on the pooled features, in the names of the peer's classifier; {} if the head is another."""
    if "classifier" not in copy.table:
        return {}  # facenet's embedding, which has a normalisation
    layers = {name.rpartition(peer.separator)[0] for name in others}
    arrays = {name.rpartition(peer.separator)[2]: array for name, array in others.items()}
    kernel, bias = (arrays.pop(peer.arrays[name], None) for name in ("kernel", "bias"))
    if len(layers) != 1 or arrays or kernel is None or kernel.ndim != 2:
        return {}
    inputs, outputs = (kernel.shape[axis] for axis in np.argsort(peer.axes.get(2, (0, 1))))
    if inputs != features or (bias is not None and bias.shape != (outputs,)):
        return {}
    bias = np.zeros(outputs, kernel.dtype) if bias is None else bias
    own = {peer.arrays["kernel"]: kernel, peer.arrays["bias"]: bias}
    return {f"{copy.table['classifier']}{peer.separator}{name}": array for name, array in own.items()}
