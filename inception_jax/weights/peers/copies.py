"""The copies of a network in a file, below the prefixes that trainers put before a layer's name.

`torch.save({"state_dict": DataParallel(model).state_dict()})` and the like make "state_dict.module.fc.bias" of
"fc.bias"; a file that keeps averaged weights beside the trained ones holds two copies.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from inception_jax.errors import UserError
from inception_jax.weights.peers import layout, names
from inception_jax.weights.peers.layout import PeerFormat
from inception_jax.weights.peers.names import Table

# Modules around a module that take part in its name and in nothing else: torch.compile, FSDP, activation checkpoints.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|shadow)(?![a-z])", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Copy:
    """One copy of a network in a file."""

    prefix: str
    """Prefix of the names of its arrays, "state_dict.module."."""
    table: Table
    """The peer's table with the numbers of this copy."""
    arrays: Mapping[str, np.ndarray]
    """Arrays below the prefix by their names without it, also those that are not the network's."""
    beside: Mapping[str, np.ndarray]
    """Arrays of layers outside of every copy: the head of a model around the network."""
    matched: int
    """Number of the trunk's arrays that are there by name."""
    expected: int
    """Number of the trunk's arrays."""

    def score(self, peer: PeerFormat) -> float:
        """Agreement of the names with the network's: 1 where no array is missing or unexpected."""
        counted = sum(layout.is_parameter(peer, name) for name in self.arrays)
        return self.matched / max(1, counted + self.expected - self.matched)


def find(peer: PeerFormat, table: Table, given: Mapping[str, np.ndarray]) -> list[Copy]:
    """Copies of the network whose layers are in the table: all places that hold most of its trunk by name."""
    given = {_without_wrappers(peer, name): array for name, array in given.items()}
    tables = _tables_by_prefix(peer, table, given)
    best = max((matched for _, _, matched in tables.values()), default=0)
    expected = len(layout.trunk_names(peer, table))
    if not best or 2 * best < expected:
        return []
    prefixes = [prefix for prefix, (_, _, matched) in tables.items() if matched == best]
    copies = []
    for prefix in prefixes:
        inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        arrays = {
            name.removeprefix(prefix): array
            for name, array in given.items()
            if name.startswith(prefix) and not (inner and name.startswith(inner))
        }
        beside = _beside(peer, prefix, prefixes, given)
        copies.append(Copy(prefix, tables[prefix][0], arrays, beside, best, expected))
    return copies


def choose(copies: list[Copy], wanted: str | None, separator: str) -> tuple[Copy, str]:
    """The copy with a label, or the only one, or the averaged one; and a sentence for the user, or "".

    Raises:
      UserError: there is no such copy, or the label is needed.
    """
    labels = {copy.prefix.rstrip(separator) or "the whole file": copy for copy in copies}
    if wanted is not None:
        if wanted not in labels:
            raise UserError(f"the file has no copy {wanted!r} of the network; --copy is one of {', '.join(labels)}.")
        return labels[wanted], ""
    if len(copies) == 1:
        return copies[0], ""
    averaged = [label for label in labels if _AVERAGED.search(label)]
    if len(averaged) != 1:
        raise UserError(
            f"the file holds the network {len(labels)} times, as {', '.join(labels)}; choose one with --copy."
        )
    others = ", ".join(label for label in labels if label != averaged[0])
    return labels[averaged[0]], f"the averaged weights, {averaged[0]}, are taken; --copy takes the others: {others}."


def _without_wrappers(peer: PeerFormat, name: str) -> str:
    return peer.separator.join(part for part in name.split(peer.separator) if part not in _WRAPPERS)


def _tables_by_prefix(
    peer: PeerFormat, table: Table, given: Iterable[str]
) -> dict[str, tuple[Table, frozenset[str], int]]:
    """For each prefix the table, the trunk's names and how many of them are there."""
    if peer.renumbered:
        groups = collections.defaultdict(set)
        for name in filter(lambda name: layout.is_parameter(peer, name), given):
            *models, layer, array = name.split(peer.separator)
            groups["".join(f"{model}{peer.separator}" for model in models)].add(f"{layer}{peer.separator}{array}")
        tables = {}
        for prefix, found in groups.items():
            own = names.renumber(table, {name.split(peer.separator)[0] for name in found})
            expected = frozenset(layout.trunk_names(peer, own))
            tables[prefix] = own, expected, len(found & expected)
        return tables
    expected = frozenset(layout.trunk_names(peer, table))
    counts: collections.Counter[str] = collections.Counter()
    for name in given:
        starts = [0, *(match.end() for match in re.finditer(re.escape(peer.separator), name))]
        counts.update(name[:start] for start in starts if name[start:] in expected)
    return {prefix: (table, expected, count) for prefix, count in counts.items()}


def _beside(
    peer: PeerFormat, prefix: str, prefixes: list[str], given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    # Of two state dictionaries in a file, each has a head of its own.
    root, _, rest = prefix.partition(peer.separator)
    root = f"{root}{peer.separator}" if rest else ""
    return {
        name: array
        for name, array in given.items()
        if name.startswith(root) and not name.startswith(tuple(prefixes)) and layout.is_parameter(peer, name)
    }
