"""Checks that weights fit a network; errors name all misfits at once."""

import logging
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from inception_jax.errors import UserError
from inception_jax.models.network import Network
from inception_jax.weights.peers import layout, names

_log = logging.getLogger(__name__)


def check_source(
    what: str,
    peer: layout.PeerFormat,
    table: names.Table,
    entries: list[layout.Entry],
    given: Mapping[str, np.ndarray],
) -> None:
    """Raises UserError unless `given`, in the peer's names, matches the entries exactly."""
    expected = {entry.theirs: entry for entry in entries if entry.theirs is not None}
    counters = layout.counters(peer, table, {"/".join(entry.ours[1:-1]) for entry in entries})
    # Early PyTorch had none: all or none must be present.
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


def check_variables(what: str, entries: list[layout.Entry], given: Mapping[layout.Path, Any]) -> None:
    """Raises UserError unless `given`, our variables by their paths, match the entries exactly."""
    expected = {entry.ours: entry for entry in entries}
    misfits = [f"missing: {entry.our_name}" for ours, entry in expected.items() if ours not in given]
    for path, array in given.items():
        name, shape = "/".join(path), np.shape(array)
        if path not in expected:
            misfits.append(f"surplus: our {name} {shape}")
        elif shape != expected[path].our_shape:
            misfits.append(f"wrong shape: our {name} {shape}, not {expected[path].our_shape}")
    _refuse(f"the variables are not {what}, nothing was exported", misfits)


def _refuse(what: str, misfits: list[str]) -> None:
    if misfits:
        count = "1 entry does" if len(misfits) == 1 else f"{len(misfits)} entries do"
        raise UserError("\n  ".join([f"{what}; {count} not fit:", *misfits]))


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
