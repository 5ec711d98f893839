"""Names of the peers' layers: one table per peer and network, for reading and writing.

A row maps the path of one of our convolutions, normalisations or dense layers to the peer's name. The rows are in the
order in which the peers' sources create their layers, from which Keras numbers them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

Table = dict[str, str]
"""Path of our layer in the variables ("stem_conv_1/conv") -> the peer's name ("features.0.conv")."""

Rows = Mapping[str, str]
"""Path of our `ConvNorm` within a block -> the peer's name."""


def _towers(*lengths: int) -> dict[str, str]:
    """Rows of branches by their lengths: "branch_2/conv_1" -> "branch1.0", or "branch1" for a single layer."""
    rows = {}
    for i, length in enumerate(lengths):
        for j in range(length):
            rows[f"branch_{i + 1}/conv_{j + 1}"] = f"branch{i}" if length == 1 else f"branch{i}.{j}"
    return rows


def _chain(branch: str, theirs: str, length: int) -> dict[str, str]:
    """Rows of one branch in torchvision's names: "branch_2/conv_1" -> "branch5x5_1"."""
    return {f"{branch}/conv_{j}": f"{theirs}_{j}" for j in range(1, length + 1)}


_CONV_NORM: Rows = {"": ""}
_AFTER_POOL: Rows = {"branch_pool/conv_1": "branch3.1"}


def _blocks(ours: str, theirs: str, rows: Rows, linear: bool = False) -> Table:
    """Table of one stage, the linear layer of a residual block last."""
    table = {}
    for our_branch, their_branch in rows.items():
        for leaf in ("conv", "bn"):
            our_path = "/".join(filter(None, (ours, our_branch, leaf)))
            table[our_path] = ".".join(filter(None, (theirs, their_branch, leaf)))
    if linear:
        table[f"{ours}/linear"] = f"{theirs}.conv2d"
    return table


def _stages(stages: Iterable[tuple], head: Table) -> Table:
    table: Table = {}
    for stage in stages:
        table |= _blocks(*stage)
    return table | head


def _numbered(ours: str, theirs: str, count: int, first: int, rows: Rows, linear: bool = False) -> list[tuple]:
    """`count` identical stages: ours numbered from 1, theirs from `first`."""
    return [(f"{ours}_{i + 1}", f"{theirs}.{first + i}", rows, linear) for i in range(count)]


def _stem(*theirs: str) -> list[tuple]:
    return [(f"stem_conv_{i}", name, _CONV_NORM) for i, name in enumerate(theirs, start=1)]


def _timm_inception_v4() -> Table:
    inception_c = {
        "branch_1/conv_1": "branch0",
        "branch_2/conv_1": "branch1_0",
        "branch_2_wide/conv_1": "branch1_1a",
        "branch_2_high/conv_1": "branch1_1b",
        "branch_3/conv_1": "branch2_0",
        "branch_3/conv_2": "branch2_1",
        "branch_3/conv_3": "branch2_2",
        "branch_3_wide/conv_1": "branch2_3a",
        "branch_3_high/conv_1": "branch2_3b",
    }
    stages = [
        *_stem("features.0", "features.1", "features.2"),
        ("stem_mixed_1", "features.3", {"conv": "conv"}),
        ("stem_mixed_2", "features.4", _towers(2, 4)),
        ("stem_mixed_3", "features.5", {"conv": "conv"}),
        *_numbered("inception_a", "features", 4, 6, {**_towers(1, 2, 3), **_AFTER_POOL}),
        ("reduction_a", "features.10", _towers(1, 3)),
        *_numbered("inception_b", "features", 7, 11, {**_towers(1, 3, 5), **_AFTER_POOL}),
        ("reduction_b", "features.18", _towers(2, 4)),
        *_numbered("inception_c", "features", 3, 19, {**inception_c, **_AFTER_POOL}),
    ]
    return _stages(stages, {"classifier": "last_linear"})


def _timm_inception_v3() -> Table:
    one, pool = {"branch_1/conv_1": "branch1x1"}, {"branch_pool/conv_1": "branch_pool"}
    a = one | _chain("branch_2", "branch5x5", 2) | _chain("branch_3", "branch3x3dbl", 3) | pool
    b = one | _chain("branch_2", "branch7x7", 3) | _chain("branch_3", "branch7x7dbl", 5) | pool
    c = {
        "branch_1/conv_1": "branch1x1",
        "branch_2/conv_1": "branch3x3_1",
        "branch_2_wide/conv_1": "branch3x3_2a",
        "branch_2_high/conv_1": "branch3x3_2b",
        "branch_3/conv_1": "branch3x3dbl_1",
        "branch_3/conv_2": "branch3x3dbl_2",
        "branch_3_wide/conv_1": "branch3x3dbl_3a",
        "branch_3_high/conv_1": "branch3x3dbl_3b",
        "branch_pool/conv_1": "branch_pool",
    }
    reduction_a = {"branch_1/conv_1": "branch3x3"} | _chain("branch_2", "branch3x3dbl", 3)
    reduction_b = _chain("branch_1", "branch3x3", 2) | _chain("branch_2", "branch7x7x3", 4)
    blocks = [("5b", "a_1", a), ("5c", "a_2", a), ("5d", "a_3", a)]
    blocks += [("6b", "b_1", b), ("6c", "b_2", b), ("6d", "b_3", b), ("6e", "b_4", b)]
    blocks += [("7b", "c_1", c), ("7c", "c_2", c)]
    inceptions = {theirs: (f"inception_{ours}", f"Mixed_{theirs}", rows) for theirs, ours, rows in blocks}
    reductions = {"6a": ("reduction_a", "Mixed_6a", reduction_a), "7a": ("reduction_b", "Mixed_7a", reduction_b)}
    mixed = inceptions | reductions
    stages = [
        *_stem("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        *(mixed[theirs] for theirs in sorted(mixed)),
        ("aux_head", "AuxLogits", {"conv_1": "conv0", "conv_2": "conv1"}),
    ]
    return _stages(stages, {"aux_head/classifier": "AuxLogits.fc", "classifier": "fc"})


def _timm_inception_resnet_v2() -> Table:
    stages = [
        *_stem("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a"),
        ("mixed_5b", "mixed_5b", {**_towers(1, 2, 3), **_AFTER_POOL}),
        *_numbered("block_a", "repeat", 10, 0, _towers(1, 2, 3), True),
        ("reduction_a", "mixed_6a", _towers(1, 3)),
        *_numbered("block_b", "repeat_1", 20, 0, _towers(1, 3), True),
        ("reduction_b", "mixed_7a", _towers(2, 2, 3)),
        *_numbered("block_c", "repeat_2", 9, 0, _towers(1, 3), True),
        ("block_c_final", "block8", _towers(1, 3), True),
        ("final_conv", "conv2d_7b", _CONV_NORM),
    ]
    return _stages(stages, {"classifier": "classif"})


def _facenet_inception_resnet_v1() -> Table:
    stages = [
        *_stem("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "conv2d_4b"),
        *_numbered("block_a", "repeat_1", 5, 0, _towers(1, 2, 3), True),
        ("reduction_a", "mixed_6a", _towers(1, 3)),
        *_numbered("block_b", "repeat_2", 10, 0, _towers(1, 3), True),
        ("reduction_b", "mixed_7a", _towers(2, 2, 3)),
        *_numbered("block_c", "repeat_3", 5, 0, _towers(1, 3), True),
        ("block_c_final", "block8", _towers(1, 3), True),
    ]
    return _stages(stages, {"classifier/dense": "last_linear", "classifier/bn": "last_bn"})


def _keras(rows: Table) -> Table:
    """Keras' names in a fresh session for our layers in the order of `rows`.

    Most layers are named after their class and numbered as they are created, in both networks in the order of timm's
    rows.
    """
    blocks = {"block_a": "block35", "block_b": "block17", "block_c": "block8"}
    fixed_names = {
        "classifier": "predictions",
        "final_conv/conv": "conv_7b",
        "final_conv/bn": "conv_7b_bn",
        "block_c_final/linear": "block8_10_conv",
    }
    table, counts = {}, {"conv": 0, "bn": 0}
    for ours in rows:
        leaf = ours.rpartition("/")[2]
        if ours.startswith("aux_head"):
            continue
        elif ours in fixed_names:
            table[ours] = fixed_names[ours]
        elif leaf == "linear":
            block, _, number = ours.removesuffix("/linear").rpartition("_")
            table[ours] = f"{blocks[block]}_{number}_conv"
        else:
            table[ours] = _NUMBERED_CLASSES[leaf] + (f"_{counts[leaf]}" if counts[leaf] else "")
            counts[leaf] += 1
    return table


_NUMBERED_CLASSES = {"conv": "conv2d", "bn": "batch_normalization"}


def keras_groups(table: Table) -> dict[str, str]:
    """Layers of a Keras table by their groups in a `.weights.h5` file: {"conv2d_5": "conv2d_8", ...}.

    A group is named after its layer's class and numbered in the order of `model.layers`: by distance from the output,
    the farthest first, then by creation.
    """
    blocks = list(dict.fromkeys(ours.split("/")[0] for ours in table))
    places = {block: place for place, block in enumerate(blocks)}
    groups: dict[str, str] = {}
    counts: dict[str, int] = {}
    for ours in sorted(table, key=lambda ours: (places[ours.split("/")[0]], -_layers_above(ours, table))):
        kind = {**_NUMBERED_CLASSES, "linear": "conv2d"}.get(ours.rpartition("/")[2], "dense")
        count = counts[kind] = counts.get(kind, -1) + 1
        groups[f"{kind}_{count}" if count else kind] = table[ours]
    return groups


def _layers_above(ours: str, table: Table) -> int:
    """Number of Keras layers between a layer and its counterpart in the last convolution before the concatenation."""
    block, _, rest = ours.partition("/")
    if rest.count("/") != 2:
        return 0
    branch, conv, leaf = rest.split("/")
    if branch.endswith(("_wide", "_high")):
        return 1  # These two are concatenated first.
    number = int(conv.removeprefix("conv_"))
    after = sum(f"{block}/{branch}/conv_{n}/{leaf}" in table for n in range(number + 1, 10))
    return 3 * after + (4 if f"{block}/{branch}_wide/conv_1/{leaf}" in table else 0)


@dataclasses.dataclass(frozen=True)
class PeerNetwork:
    """A peer's network."""

    table: Callable[[], Table]
    count_include_pad: bool
    """Whether its 3x3 average pools divide by 9 at the borders too."""
    features: int
    """Number of pooled features, the inputs of the classifier."""


NETWORKS: dict[tuple[str, str], PeerNetwork] = {
    ("timm", "inception_v3"): PeerNetwork(_timm_inception_v3, True, 2048),
    ("timm", "inception_v4"): PeerNetwork(_timm_inception_v4, False, 1536),
    ("timm", "inception_resnet_v2_slim"): PeerNetwork(_timm_inception_resnet_v2, False, 1536),
    ("keras", "inception_v3"): PeerNetwork(lambda: _keras(_timm_inception_v3()), False, 2048),
    ("keras", "inception_resnet_v2_slim"): PeerNetwork(lambda: _keras(_timm_inception_resnet_v2()), False, 1536),
    ("facenet", "inception_resnet_v1_facenet"): PeerNetwork(_facenet_inception_resnet_v1, False, 1792),
}
"""The peers' networks, keyed by format and our network's name."""

PEERS_NAMES = {
    "inception_resnet_v1": "inception_resnet_v1_facenet",
    "inception_resnet_v2": "inception_resnet_v2_slim",
}
"""Our names for networks that peers call by the paper's names."""


def renumber(table: Table, layers: Iterable[str]) -> Table:
    """Renumbers a Keras table to the session that named `layers`.

    Keras numbers layers throughout a session, so a second network's first convolution may be conv2d_94. The order of
    the numbers identifies the layers. If their count is wrong, the first number does, so that an error names the
    missing layer and not all after it.
    """
    fresh = set(table.values())
    theirs: dict[str, str] = {}
    for kind in _NUMBERED_CLASSES.values():
        pattern = re.compile(rf"{kind}(?:_(\d+))?")
        matches = [match for match in map(pattern.fullmatch, set(layers)) if match]
        found = sorted((int(match[1] or 0), match[0]) for match in matches)
        wanted = sorted((int(match[1] or 0), match[0]) for match in map(pattern.fullmatch, fresh) if match)
        if len(found) == len(wanted):
            theirs |= {old: new for (_, old), (_, new) in zip(wanted, found, strict=True)}
        elif found and found[-1][0] >= len(wanted):
            offset = found[0][0]
            theirs |= {old: f"{kind}_{number + offset}" if number + offset else kind for number, old in wanted}
    return {ours: theirs.get(name, name) for ours, name in table.items()}
