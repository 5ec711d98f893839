"""Trained weights from and to timm, Keras and facenet."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.errors import UserError
from inception_jax.models import create_model, list_models
from inception_jax.models.initialize import initial_variables
from inception_jax.models.network import Network
from inception_jax.weights import files, layout, names

_log = logging.getLogger(__name__)


def import_weights(
    name: str,
    source: Mapping[str, Any] | str | os.PathLike,
    *,
    format: str,
    num_classes: int | None = None,
) -> tuple[Network, dict[str, Any]]:
    """A peer's weights as our network and its variables, `{"params": ..., "batch_stats": ...}` of NumPy arrays.

    | format  | name                        | files                                 |
    |---------|-----------------------------|---------------------------------------|
    | timm    | inception_v3                | .safetensors, .pt, .pth               |
    | timm    | inception_v4                | .safetensors, .pt, .pth               |
    | timm    | inception_resnet_v2_slim    | .safetensors, .pt, .pth               |
    | keras   | inception_v3                | .h5, .weights.h5, .keras              |
    | keras   | inception_resnet_v2_slim    | .h5, .weights.h5, .keras              |
    | facenet | inception_resnet_v1_facenet | .safetensors, .pt, .pth               |

    The network has the source's average pools (`count_include_pad`), timm's auxiliary head where the source holds one
    (inception_v3), and follows the dtype of the images. The numbers are those of the source: TensorFlow's 1001 labels
    stay 1001, background first. Nothing is computed from PyTorch's `num_batches_tracked` and from facenet's `logits`
    (a classifier over identities for its training); they are dropped.

    Args:
      name: of our network; inception_resnet_v2 and inception_resnet_v1, as peers say, mean those of the table.
      source: names to arrays in the peer's layout (Keras: "conv2d_1/kernel"), or the path of a file.
      format: "timm", "keras" or "facenet".
      num_classes: None is the source's. Another number keeps all but the head, which is new (drawn from seed 0; a
        warning is logged); 0 drops the head. With either, the source may lack the head.

    Raises:
      UserError: a format without this network, an unreadable file, or entries that are missing, surplus or wrongly
        shaped: all of them are named, and nothing is loaded.
    """
    network, kept = _source(format, name)
    given = files.read(Path(source), format) if isinstance(source, str | os.PathLike) else source
    given = {entry: np.asarray(array) for entry, array in given.items()}
    peer, table = layout.FORMATS[format], kept.table()
    if format == "keras":
        table = names.renumber(table, {entry.rpartition("/")[0] for entry in given})
    classes = layout.classes_in(peer, table, given)
    if classes is None:
        classes = peer.default_classes if num_classes is None else 0
    aux_head = classes > 0 and layout.holds_aux_head(table, given)
    model = create_model(network, num_classes=classes, aux_head=aux_head, count_include_pad=kept.count_include_pad)
    entries = layout.entries(peer, table, _shapes(model))
    _check_source(f"{format}'s {network}", peer, table, entries, given)
    leaves = {
        entry.ours: np.ones(entry.our_shape, np.float32) if entry.theirs is None else entry.to_ours(given[entry.theirs])
        for entry in entries
    }
    variables = flax.traverse_util.unflatten_dict(leaves)
    if num_classes is None or num_classes == classes:
        return model, variables
    return _with_new_head(model, variables, num_classes)


def export_weights(model: Network, variables: Mapping[str, Any], *, format: str) -> dict[str, np.ndarray]:
    """Our variables as a peer's names and arrays; `import_weights` of them gives the variables back bit for bit.

    timm's and facenet's mappings load with `strict=True`: `num_batches_tracked` is there and 0. Keras' are numbered as
    in a fresh session. An auxiliary head is left out where the peer has none (all but timm's inception_v3).

    Args:
      model: a network that the peer has, as `import_weights` makes them.
      variables: its "params" and "batch_stats"; other collections are left out.
      format: "timm", "keras" or "facenet".

    Raises:
      UserError: the peer does not have this network, with these residual scales; the variables are not the model's; or,
        in Keras, whose batch normalisations have no scale, a scale that is not 1.
    """
    network, kept = _source(format, _name(model), exact=True)
    peer, table = layout.FORMATS[format], kept.table()
    given = flax.traverse_util.flatten_dict({k: variables.get(k, {}) for k in ("params", "batch_stats")})
    if "aux_head/classifier" not in table:
        given = {path: array for path, array in given.items() if path[1] != "aux_head"}
    theirs = create_model(
        network,
        num_classes=model.num_classes,
        aux_head=any(path[1] == "aux_head" for path in given),
        count_include_pad=kept.count_include_pad,
    )
    _check_function(f"{format}'s {network}", model, theirs)
    entries = layout.entries(peer, table, _shapes(theirs))
    _check_variables(f"{format}'s {network}", entries, given)
    exported = {entry.theirs: entry.to_theirs(given[entry.ours]) for entry in entries if entry.theirs is not None}
    layers = {"/".join(entry.ours[1:-1]) for entry in entries}
    return exported | dict.fromkeys(layout.counters(peer, table, layers), np.zeros((), np.int64))


def _source(format: str, name: str, exact: bool = False) -> tuple[str, names.Source]:
    network = name if exact else names.PEERS_NAMES.get(name, name)
    if format not in layout.FORMATS:
        raise UserError(f"there is no format {format!r}; there are {', '.join(layout.FORMATS)}.")
    if (format, network) not in names.SOURCES:
        networks = ", ".join(theirs for kind, theirs in names.SOURCES if kind == format)
        raise UserError(f"{format} has no {name}; of our networks it has {networks}.")
    return network, names.SOURCES[format, network]


def _name(model: Network) -> str:
    """The name that `create_model` has for this network, whatever its options."""

    def identity(network: Network) -> tuple:
        return type(network), id(getattr(network, "widths", None))

    names_here = (name for name in list_models() if identity(create_model(name)) == identity(model))
    return next(names_here, type(model).__name__)


def _shapes(model: Network) -> Any:
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def _with_new_head(model: Network, variables: dict[str, Any], num_classes: int) -> tuple[Network, dict[str, Any]]:
    model = model.clone(num_classes=num_classes, aux_head=model.aux_head and num_classes > 0)
    leaves = flax.traverse_util.flatten_dict(variables)
    if num_classes == 0:
        leaves = {path: leaf for path, leaf in leaves.items() if path[1] not in ("classifier", "aux_head")}
    else:
        fresh = flax.traverse_util.flatten_dict(initial_variables(model, seed=0))
        leaves |= {path: leaf for path, leaf in fresh.items() if "classifier" in path}
        _log.warning("the classifier is new: %d classes drawn from seed 0, not the source's.", num_classes)
    return model, flax.traverse_util.unflatten_dict(leaves)


def _check_source(
    what: str,
    peer: layout.Format,
    table: names.Table,
    entries: list[layout.Entry],
    given: Mapping[str, np.ndarray],
) -> None:
    expected = {entry.theirs: entry for entry in entries if entry.theirs is not None}
    counters = layout.counters(peer, table, {"/".join(entry.ours[1:-1]) for entry in entries})
    # Early PyTorch kept none; where some are there, all must be.
    if given.keys().isdisjoint(counters):
        counters = []
    misfits = [
        f"missing: {entry.their_name}, {entry.our_name}" for theirs, entry in expected.items() if theirs not in given
    ]
    misfits += [f"missing: {counter} ()" for counter in counters if counter not in given]
    for name, array in given.items():
        if name in peer.ignored:
            continue
        if name in expected:
            if array.shape != expected[name].their_shape:
                entry = expected[name]
                misfits.append(f"wrong shape: {name} {array.shape}, not {entry.their_shape}, {entry.our_name}")
            elif not jnp.issubdtype(array.dtype, jnp.floating):
                misfits.append(f"wrong type: {name} is {array.dtype}, not floating-point")
        elif name not in counters:
            misfits.append(f"surplus: {name} {array.shape}")
        elif array.shape != ():
            misfits.append(f"wrong shape: {name} {array.shape}, not ()")
    _refuse(f"the source is not {what}, nothing was loaded", misfits)


def _check_variables(what: str, entries: list[layout.Entry], given: Mapping[layout.Path, Any]) -> None:
    expected = {entry.ours: entry for entry in entries}
    misfits = [f"missing: {entry.our_name}" for ours, entry in expected.items() if ours not in given]
    for path, array in given.items():
        name, shape = "/".join(path), np.shape(array)
        if path not in expected:
            misfits.append(f"surplus: our {name} {shape}")
        elif shape != expected[path].our_shape:
            misfits.append(f"wrong shape: our {name} {shape}, not {expected[path].our_shape}")
        elif expected[path].theirs is None and not np.all(np.asarray(array) == 1):
            misfits.append(f"not 1, which is all that the format holds: our {name}")
    _refuse(f"the variables are not {what}, nothing was exported", misfits)


def _refuse(what: str, misfits: list[str]) -> None:
    if misfits:
        count = "1 entry does" if len(misfits) == 1 else f"{len(misfits)} entries do"
        raise UserError("\n  ".join([f"{what}; {count} not fit:", *misfits]))


def _check_function(what: str, ours: Network, theirs: Network) -> None:
    for field in ("width", "residual_scales"):
        our_value, their_value = getattr(ours, field, None), getattr(theirs, field, None)
        if our_value != their_value:
            raise UserError(
                f"{what} has the {field} {their_value}, this model {our_value}; it cannot be exported there."
            )
    if ours.count_include_pad != theirs.count_include_pad:
        _log.warning(
            "%s has count_include_pad=%s in its average pools, this model %s: the same weights will give it slightly "
            "other logits.",
            what,
            theirs.count_include_pad,
            ours.count_include_pad,
        )
