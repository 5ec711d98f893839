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
from inception_jax.weights.peers import checks, files, layout, names

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

    A fourth format, "inception_jax" (see `layout.OURS`), is that of the `.safetensors` files that we write for networks
    which no peer has; it needs the path of one, which describes its network.

    The network has the source's average pools (`count_include_pad`), timm's auxiliary head where the source holds one
    (inception_v3), and follows the dtype of the images. The numbers are those of the source: TensorFlow's 1001 labels
    stay 1001, background first. Nothing is computed from PyTorch's `num_batches_tracked` and from facenet's `logits`
    (a classifier over identities for its training); they are dropped.

    Args:
      name: of our network; inception_resnet_v2 and inception_resnet_v1, as peers say, mean those of the table.
      source: names to arrays in the peer's layout (Keras: "conv2d_1/kernel"), or the path of a file.
      format: "timm", "keras", "facenet" or "inception_jax".
      num_classes: None is the source's. Another number keeps all but the head, which is new (drawn from seed 0; a
        warning is logged); 0 drops the head. With either, the source may lack the head.

    Raises:
      UserError: a format without this network, an unreadable file, or entries that are missing, surplus or wrongly
        shaped: all of them are named, and nothing is loaded.
    """
    given = files.read(Path(source), _check_format(format)) if isinstance(source, str | os.PathLike) else source
    given = {entry: np.asarray(array) for entry, array in given.items()}
    if format == layout.OURS:
        model, table = _own_model(name, source)
    else:
        model, table = _peer_model(name, format, given, num_classes)
    peer, classes = layout.FORMATS[format], model.num_classes
    entries = layout.entries(peer, table, variable_shapes(model))
    checks.check_source(f"{format}'s {describe(model)['name']}", peer, table, entries, given)
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

    Keras' batch normalisations have no scale. Scales that are not 1 go into the kernels and running means before them
    (`layout.without_scales`): the same function of the images, but the variables that come back are not these.

    Args:
      model: a network that the peer has, as `import_weights` makes them.
      variables: its "params" and "batch_stats"; other collections are left out.
      format: "timm", "keras" or "facenet"; "inception_jax" has every network.

    Raises:
      UserError: the peer does not have this network, with these residual scales; the variables are not the model's.
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
    """The format whose names its `.safetensors` file has: of the peer with this very network, else "inception_jax"."""
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


def _peer_model(
    name: str, format: str, given: Mapping[str, np.ndarray], num_classes: int | None
) -> tuple[Network, names.Table]:
    """The peer's network that the arrays are of, and whose layer is whose."""
    network, peer_network = _peer_network(format, name)
    peer, table = layout.FORMATS[format], peer_network.table()
    if format == "keras":
        table = names.renumber(table, {entry.rpartition("/")[0] for entry in given})
    classes = layout.classes_in(peer, table, given)
    if classes is None:
        classes = peer.default_classes if num_classes is None else 0
    aux_head = classes > 0 and layout.holds_aux_head(table, given)
    model = create_model(
        network, num_classes=classes, aux_head=aux_head, count_include_pad=peer_network.count_include_pad
    )
    return model, table


def _own_model(name: str, source: Any) -> tuple[Network, names.Table]:
    """The network that a file of ours describes, and whose layer is whose."""
    if not isinstance(source, str | os.PathLike):
        raise UserError("weights in the format inception_jax are read from a file, which describes its network.")
    described = saved_metadata(source)
    if described.get("format") != layout.OURS:
        raise UserError(f"{source} does not say that it is in the format inception_jax; give the format it is in.")
    try:
        model = create_model(**described["model"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{source} describes no network of this version: {error}") from error
    if described["model"]["name"] != name:
        raise UserError(f"{source} holds {described['model']['name']}, not {name}.")
    return model, layout.our_table(variable_shapes(model))


def _peer_network(format: str, name: str, exact: bool = False) -> tuple[str, names.PeerNetwork]:
    network = name if exact else names.PEERS_NAMES.get(name, name)
    if (_check_format(format), network) not in names.NETWORKS:
        networks = ", ".join(theirs for kind, theirs in names.NETWORKS if kind == format)
        raise UserError(f"{format} has no {name}; of our networks it has {networks}.")
    return network, names.NETWORKS[format, network]


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
