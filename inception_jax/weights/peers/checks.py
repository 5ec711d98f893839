"""Checks that weights fit a network; an error names the network that they are of, or the misfits."""

import logging
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from inception_jax.errors import UserError
from inception_jax.models.network import Network
from inception_jax.weights.peers import copies, layout, names

_log = logging.getLogger(__name__)

_SHOWN = 20
# A score, above which the names are those of the network; heads and single layers may differ.
_ALIKE = 0.8


def check_source(what: str, entries: list[layout.Entry], given: Mapping[str, np.ndarray]) -> None:
    """Raises UserError unless `given`, in the peer's names, matches the entries exactly and is finite."""
    expected = {entry.theirs: entry for entry in entries if entry.theirs is not None}
    misfits = [
        f"missing: {entry.their_name}, {entry.our_name}" for theirs, entry in expected.items() if theirs not in given
    ]
    other_shapes = 0
    for theirs, array in given.items():
        entry = expected.get(theirs)
        if entry is None:
            misfits.append(f"unexpected: {theirs} {array.shape}")
        elif array.shape != entry.their_shape:
            other_shapes += 1
            misfits.append(f"wrong shape: {theirs} {array.shape}, not {entry.their_shape}, {entry.our_name}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            misfits.append(f"wrong type: {theirs} is {array.dtype}, not floating-point")
    if 2 * other_shapes > len(entries):
        raise UserError(f"it is not {what} but a network of other widths, which has no import: {misfits[0]}.")
    _refuse(f"it is not {what}, nothing was loaded", misfits)
    broken = [name for name, array in given.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(
            f"the weights are not finite in {len(broken)} arrays, the first {broken[0]}: the training that wrote them "
            "had diverged; take an earlier file."
        )


def find_copies(
    what: str, name: tuple[str, str], table: names.Table, given: Mapping[str, np.ndarray]
) -> list[copies.Copy]:
    """Copies of the network in a source.

    Args:
      what: the network, for messages.
      name: its format and name.
      table: the peer's names of its layers.
      given: arrays of the source by their full names.

    Raises:
      UserError: there is none; the message names the network that the source holds instead, if it is known.
    """
    peer = layout.FORMATS[name[0]]
    found = copies.find(peer, table, given)
    if found and max(copy.score(peer) for copy in found) > _ALIKE:
        return found
    other = recognise(given)
    if other is not None and other != name:
        format, network = other
        raise UserError(f"it is {format}'s {network}, not {what}: give --model {network} --format {format}.")
    if found:
        return found
    if not given:
        raise UserError("it holds no arrays.")
    raise UserError(
        f"it is not {what}, nor another network that can be imported; its {len(given)} arrays are named "
        f"{', '.join(list(given)[:3])}, ..."
    )


def recognise(given: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
    """Format and name of the network whose layers' names a source has; None if there is none."""
    scores = {}
    for (format, network), peer_network in names.NETWORKS.items():
        peer = layout.FORMATS[format]
        found = copies.find(peer, peer_network.table(), given)
        scores[format, network] = max((copy.score(peer) for copy in found), default=0.0)
    best = max(scores, key=lambda key: scores[key])
    return best if scores[best] > _ALIKE else None


def check_variables(what: str, entries: list[layout.Entry], given: Mapping[layout.Path, Any]) -> None:
    """Raises UserError unless `given`, our variables by their paths, match the entries exactly."""
    expected = {entry.ours: entry for entry in entries}
    misfits = [f"missing: {entry.our_name}" for ours, entry in expected.items() if ours not in given]
    for path, array in given.items():
        name, shape = "/".join(path), np.shape(array)
        if path not in expected:
            misfits.append(f"unexpected: our {name} {shape}")
        elif shape != expected[path].our_shape:
            misfits.append(f"wrong shape: our {name} {shape}, not {expected[path].our_shape}")
    _refuse(f"the variables are not {what}, nothing was exported", misfits)


def _refuse(what: str, misfits: list[str]) -> None:
    if misfits:
        count = "1 entry does" if len(misfits) == 1 else f"{len(misfits)} entries do"
        more = [f"and {len(misfits) - _SHOWN} more"] if len(misfits) > _SHOWN else []
        raise UserError("\n  ".join([f"{what}; {count} not fit:", *misfits[:_SHOWN], *more]))


def check_function(what: str, ours: Network, theirs: Network) -> None:
    """Raises UserError if the peer's network computes another function; other average pools only log a warning."""
    for field in ("width", "residual_scales"):
        our_value, their_value = getattr(ours, field, None), getattr(theirs, field, None)
        if our_value != their_value:
            raise UserError(
                f"{what} has the {field} {their_value}, this model {our_value}; it cannot be exported to that format."
            )
    if ours.count_include_pad != theirs.count_include_pad:
        _log.warning(
            "%s has count_include_pad=%s in its average pools, this model %s: its logits will differ slightly.",
            what,
            theirs.count_include_pad,
            ours.count_include_pad,
        )
