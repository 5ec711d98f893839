"""Conversion of trained weights from and to timm, Keras and facenet."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import numpy as np

from inception_jax.errors import UserError
from inception_jax.models import create_model, describe
from inception_jax.models.initialize import initial_variables, variable_shapes
from inception_jax.models.network import Network
from inception_jax.weights import metadata
from inception_jax.weights.peers import checks, copies, files, heads, layout, names

_log = logging.getLogger(__name__)


def import_weights(
    name: str,
    source: Mapping[str, Any] | str | os.PathLike,
    *,
    format: str,
    num_classes: int | None = None,
    copy: str | None = None,
) -> tuple[Network, dict[str, Any]]:
    """Converts a peer's weights to a network and its variables, `{"params": ..., "batch_stats": ...}` of NumPy arrays.

    | format  | name                        | files                                            |
    |---------|-----------------------------|--------------------------------------------------|
    | timm    | inception_v3                | .safetensors, .pt, .pth, .bin, .ckpt, .pth.tar   |
    | timm    | inception_v4                | the same, or in parts with an .index.json        |
    | timm    | inception_resnet_v2_slim    | the same                                         |
    | keras   | inception_v3                | .h5, .weights.h5, .keras                         |
    | keras   | inception_resnet_v2_slim    | .h5, .weights.h5, .keras                         |
    | facenet | inception_resnet_v1_facenet | as timm                                          |

    A fourth format, "inception_jax" (see `layout.OURS`), is that of our `.safetensors` files of networks without a
    peer; it needs the path of such a file, which describes its network.

    The trunk is found below any prefix ("state_dict.module.") and in models built around it. One dense layer on its
    pooled features is its classifier, whatever its name; one with a single output, a sigmoid, becomes two classes. Any
    other head needs `num_classes`. What is left out is named in a warning.

    The network has the source's average pools (`count_include_pad`) and its auxiliary head, if any (timm's
    inception_v3), and infers its dtype from the images. The classes are those of the source: TensorFlow's 1001 labels
    stay 1001, background first. PyTorch's `num_batches_tracked` and facenet's `logits` (a classifier over identities)
    have no part in inference and are dropped.

    Args:
      name: name of our network; inception_resnet_v1 and inception_resnet_v2 stand for those of the table.
      source: mapping of names to arrays in the peer's layout (Keras: "conv2d_1/kernel"), or the path of a file.
      format: "timm", "keras", "facenet" or "inception_jax".
      num_classes: number of classes; None is the source's. Another number replaces the head by a new one (drawn from
        seed 0, with a warning), 0 drops it. With either, the source may have another head or none.
      copy: which copy of the network to take from a file with several, "state_dict_ema"; None takes the averaged one.

    Raises:
      UserError: the format has no such network, the file is unreadable or of another network (which is named), or
        entries are missing, surplus, of the wrong shape or not finite; the first of them are named.
    """
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    if path is not None:
        given = files.read(path, _check_format(format))
        _check_layout(path, name, format)
    else:
        assert isinstance(source, Mapping)
        given = {entry: np.asarray(array) for entry, array in source.items()}
    try:
        if format == layout.OURS:
            return _import_own(name, path, given, num_classes)
        objection = heads.objection(files.read_configuration(path)) if path is not None else ""
        return _import_peers(name, given, format, num_classes, copy, objection)
    except UserError as error:
        raise error if path is None else UserError(f"{path}: {error}") from error


def export_weights(model: Network, variables: Mapping[str, Any], *, format: str) -> dict[str, np.ndarray]:
    """Converts variables to a peer's names and arrays; the inverse of `import_weights`, bit for bit.

    timm's and facenet's mappings load with `strict=True`: `num_batches_tracked` is included and 0. Keras' layers are
    numbered as in a fresh session. Only timm's inception_v3 keeps an auxiliary head.

    Keras' batch normalisations have no scale: scales other than 1 are folded into the kernels and running means before
    them (`layout.without_scales`), which keeps the function of the images but not the variables.

    Args:
      model: a network that the peer has, as returned by `import_weights`.
      variables: its "params" and "batch_stats"; other collections are ignored.
      format: "timm", "keras" or "facenet"; "inception_jax" has every network.

    Raises:
      UserError: the peer has no such network or other residual scales, or the variables are not the model's.
    """
    given = flax.traverse_util.flatten_dict({k: variables.get(k, {}) for k in ("params", "batch_stats")})
    if format == layout.OURS:
        network, theirs = describe(model)["name"], model
        table = layout.our_table(variable_shapes(model))
    else:
        network, peer_network = _peer_network(format, describe(model)["name"], exact=True)
        table = peer_network.table()
        if "aux_head/classifier" not in table:
            given = {path: array for path, array in given.items() if path[1] != "aux_head"}
        theirs = create_model(
            network,
            num_classes=model.num_classes,
            aux_head=any(path[1] == "aux_head" for path in given),
            count_include_pad=peer_network.count_include_pad,
        )
        checks.check_function(f"{format}'s {network}", model, theirs)
    peer = layout.FORMATS[format]
    entries = layout.entries(peer, table, variable_shapes(theirs))
    checks.check_variables(f"{format}'s {network}", entries, given)
    if any(entry.theirs is None for entry in entries):
        given = layout.without_scales(given)
    exported = {entry.theirs: entry.to_theirs(given[entry.ours]) for entry in entries if entry.theirs is not None}
    layers = {"/".join(entry.ours[1:-1]) for entry in entries}
    return exported | dict.fromkeys(layout.counters(peer, table, layers), np.zeros((), np.int64))


def pytorch_format(model: Network) -> str:
    """Format of the network's `.safetensors` file: that of the peer with the same network, else "inception_jax"."""
    name = describe(model)["name"]
    for format in ("timm", "facenet"):
        if (format, name) not in names.NETWORKS:
            continue
        theirs = create_model(name)
        same = [getattr(model, field, None) == getattr(theirs, field, None) for field in ("width", "residual_scales")]
        if all(same) and [stage for stage, _ in model.stages()] == [stage for stage, _ in theirs.stages()]:
            return format
    return layout.OURS


def save_weights(
    path: str | os.PathLike,
    model: Network,
    variables: Mapping[str, Any],
    *,
    format: str,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Writes what `export_weights` gives: Keras' as `.weights.h5`, the others' as `.safetensors`.

    Either file has the metadata "inception_jax.format", whose names the arrays have, and as JSON "inception_jax.model"
    (the arguments of `create_model`), "inception_jax.preprocessing" (with the names of the classes) and
    "inception_jax.file_format"; in Keras' file they are attributes, which Keras ignores. `saved_metadata` reads them.

    Raises:
      UserError: as `export_weights`, or the file's library is not installed.
    """
    arrays = export_weights(model, variables, format=format)
    texts = metadata.to_texts({"format": format, "model": describe(model), "preprocessing": preprocessing})
    if format == "keras":
        table = names.NETWORKS[format, describe(model)["name"]].table()
        files.write_weights_h5(Path(path), arrays, names.keras_groups(table), texts)
    else:
        files.write_safetensors(Path(path), arrays, {"format": "pt", **texts})


def saved_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The metadata that `save_weights` wrote into a `.safetensors` or `.h5` file; {} for any other file."""
    return metadata.from_texts(path, files.read_metadata(Path(path)))


def _check_format(format: str) -> str:
    if format not in layout.FORMATS:
        raise UserError(f"there is no format {format!r}; there are {', '.join(layout.FORMATS)}.")
    return format


def _check_layout(path: Path, name: str, format: str) -> None:
    """Raises UserError if the file says that it has another layout."""
    own = saved_metadata(path).get("format", format)
    if own != format:
        raise UserError(f"{path} has the layout of {own}: give --format {own} --model {name}.")


def _import_own(
    name: str, path: Path | None, given: Mapping[str, np.ndarray], num_classes: int | None
) -> tuple[Network, dict[str, Any]]:
    """A network of our own format, as its file describes it."""
    if path is None:
        raise UserError("the format inception_jax needs the path of a file, which describes its network.")
    described = saved_metadata(path)
    if described.get("format") != layout.OURS:
        raise UserError("it is not in the format inception_jax; give its own format.")
    try:
        model = create_model(**described["model"])
    except (KeyError, TypeError) as error:
        raise UserError(f"it does not describe a network of this version: {error}") from error
    if described["model"]["name"] != name:
        raise UserError(f"it holds {described['model']['name']}, not {name}.")
    shapes = variable_shapes(model)
    entries = layout.entries(layout.FORMATS[layout.OURS], layout.our_table(shapes), shapes)
    checks.check_source(f"inception_jax's {name}", entries, given)
    return _with_classes(model, _to_ours(entries, given), num_classes)


def _import_peers(
    name: str, given: Mapping[str, np.ndarray], format: str, num_classes: int | None, wanted: str | None, objection: str
) -> tuple[Network, dict[str, Any]]:
    network, peer_network = _peer_network(format, name)
    peer, what = layout.FORMATS[format], f"{format}'s {network}"
    found = checks.find_copies(what, (format, network), peer_network.table(), given)
    copy, said = copies.choose(found, wanted, peer.separator)
    if said:
        _log.warning("%s", said)
    head = heads.arrange(peer, copy, peer_network.features, objection, new_head=num_classes is not None)
    classes = layout.classes_in(peer, copy.table, head.arrays) if head.has_head else 0
    model = create_model(
        network,
        num_classes=classes,
        aux_head=classes > 0 and layout.holds_aux_head(copy.table, head.arrays),
        count_include_pad=peer_network.count_include_pad,
    )
    entries = layout.entries(peer, copy.table, variable_shapes(model))
    checks.check_source(what, entries, head.arrays)
    if head.left_out:
        _log.warning("left out: %s.", heads.describe(head.left_out))
    variables = _to_ours(entries, head.arrays)
    if classes == 1 and num_classes in (None, 2):
        model, variables = _two_classes(model, variables)
    return _with_classes(model, variables, num_classes)


def _to_ours(entries: list[layout.Entry], given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    leaves = {
        entry.ours: np.ones(entry.our_shape, np.float32) if entry.theirs is None else entry.to_ours(given[entry.theirs])
        for entry in entries
    }
    return flax.traverse_util.unflatten_dict(leaves)


def _two_classes(model: Network, variables: dict[str, Any]) -> tuple[Network, dict[str, Any]]:
    """A classifier of one output, a sigmoid, as two classes: a softmax over 0 and x is the sigmoid of x."""
    leaves = flax.traverse_util.flatten_dict(variables)
    for path, leaf in leaves.items():
        if "classifier" in path:
            leaves[path] = np.concatenate([np.zeros_like(leaf), leaf], axis=-1)
    _log.warning("the head has one output, a sigmoid, and becomes two classes: 0 for no, 1 for yes.")
    return model.clone(num_classes=2), flax.traverse_util.unflatten_dict(leaves)


def _peer_network(format: str, name: str, exact: bool = False) -> tuple[str, names.PeerNetwork]:
    network = name if exact else names.PEERS_NAMES.get(name, name)
    if (_check_format(format), network) not in names.NETWORKS:
        networks = ", ".join(theirs for kind, theirs in names.NETWORKS if kind == format)
        raise UserError(f"{format} has no {name}; its networks are {networks}.")
    return network, names.NETWORKS[format, network]


def _with_classes(model: Network, variables: dict[str, Any], num_classes: int | None) -> tuple[Network, dict[str, Any]]:
    """The network with the number of classes that was asked for, with a new head if it is another."""
    if num_classes is None or num_classes == model.num_classes:
        return model, variables
    model = model.clone(num_classes=num_classes, aux_head=model.aux_head and num_classes > 0)
    leaves = flax.traverse_util.flatten_dict(variables)
    if num_classes == 0:
        leaves = {path: leaf for path, leaf in leaves.items() if path[1] not in ("classifier", "aux_head")}
    else:
        fresh = flax.traverse_util.flatten_dict(initial_variables(model, seed=0))
        leaves |= {path: leaf for path, leaf in fresh.items() if "classifier" in path}
        _log.warning("the classifier is new: %d classes drawn from seed 0 replace those of the source.", num_classes)
    return model, flax.traverse_util.unflatten_dict(leaves)
