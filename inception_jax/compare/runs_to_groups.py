"""Runs as curves, and curves in groups: the runs of one experiment that differ only in their seed."""

import dataclasses
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from inception_jax.config import Experiment, differences, to_flat_dict
from inception_jax.errors import UserError
from inception_jax.runs import METRICS, Run
from inception_jax.system.names import printable

PAIRS = (("inception_v3", "inception_resnet_v1"), ("inception_v4", "inception_resnet_v2"))
"""(pure, residual) pairs of the paper; a name includes its variants, such as inception_resnet_v2_slim."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A run with its validation records of the averaged and of the raw parameters, by increasing step.

    They have no top5_error where there are fewer than six classes.
    """

    run: Run
    averaged: list[dict[str, Any]]
    raw: list[dict[str, Any]]

    @property
    def model(self) -> str:
        """The network's name in the table of models."""
        return self.run.experiment.model.name

    @property
    def residual(self) -> bool:
        """Whether the network has residual connections."""
        return self.model.startswith("inception_resnet")

    @property
    def network(self) -> str:
        """Display name of the network, with its depths if they were set: 'Inception-v4 (4/7/3)'."""
        depths = self.run.experiment.model.depths
        name = display_name(self.model)
        return f"{name} ({'/'.join(map(str, depths))})" if depths else name

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.run.experiment.seed

    @property
    def progress(self) -> str:
        """Step of an unfinished run, after a space; empty for a finished run."""
        reached = self.run.metrics[-1]["step"] if self.run.metrics else 0
        return "" if self.run.finished else f" (step {reached} of {self.run.info.steps})"


def curves_of(runs: Sequence[Run]) -> list[Curve]:
    """A curve for each run, in the given order; without records if the run was never evaluated.

    UserError where a line of metrics.jsonl lacks what a comparison needs.
    """
    for run in runs:
        _check_metrics(run)
    return [Curve(run, _evaluations(run, "averaged"), _evaluations(run, "raw")) for run in runs]


def display_name(model: str) -> str:
    """The paper's spelling: inception_resnet_v2_slim -> 'Inception-ResNet-v2 (slim)'."""
    network = next((name for pair in PAIRS for name in pair if model.startswith(name)), model)
    spelling = network.replace("inception", "Inception").replace("resnet", "ResNet").replace("_", "-")
    variant = model[len(network) :].strip("_").replace("_", " ")
    return f"{spelling} ({variant})" if variant else spelling


def pair_of(model: str) -> tuple[str, ...]:
    """The pair in `PAIRS` of a network, or the network alone."""
    return next((pair for pair in PAIRS if model.startswith(pair)), (model,))


def _check_metrics(run: Run) -> None:
    """Raises UserError for a line without one of the fields that every line like it has."""
    validation = {"parameters", "top1_error"}
    if any(record.get("top5_error") is not None for record in run.metrics if record["split"] == "validation"):
        validation |= {"top5_error"}
    for record in run.metrics:
        needed = {"epoch", "seconds"} | (validation if record["split"] == "validation" else set())
        missing = sorted(name for name in needed if record.get(name) is None)
        if missing:
            raise UserError(
                f"{run.directory}/{METRICS}: the {record['split']} line of step {record['step']} has no {missing[0]}."
            )


def _evaluations(run: Run, parameters: str) -> list[dict[str, Any]]:
    # By step: a run that resumed right after an evaluation may have logged it twice.
    found = {m["step"]: m for m in run.metrics if m["split"] == "validation" and m["parameters"] == parameters}
    if (run.experiment.model.num_classes or 6) < 6:
        # Earlier versions logged an error of zero where all classes are among the first five.
        found = {step: {name: m[name] for name in m if name != "top5_error"} for step, m in found.items()}
    return [found[step] for step in sorted(found)]


_ABBREVIATIONS = {"learning_rate": "rate", "name": "optimiser"}  # The network's name is not in labels.
_NOT_IN_LABELS = ("seed", "model.name", "model.depths")
_MAX_FIELDS = 2  # Fields in a label; more would not fit a legend.


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one experiment, one for each seed, by increasing seed."""

    label: str
    """Name of the network and, where needed, what distinguishes this group from others of that network."""
    curves: tuple[Curve, ...]

    @property
    def experiment(self) -> Experiment:
        """Experiment of the run with the first seed."""
        return self.curves[0].run.experiment

    @property
    def model(self) -> str:
        """The network's name in the table of models."""
        return self.curves[0].model

    @property
    def network(self) -> str:
        """Display name of the network, with its depths if they were set."""
        return self.curves[0].network

    @property
    def residual(self) -> bool:
        """Whether the network has residual connections."""
        return self.curves[0].residual

    @property
    def by_seed(self) -> dict[int, Curve]:
        """Runs keyed by seed."""
        return {curve.seed: curve for curve in self.curves}

    @property
    def title(self) -> str:
        """The label with the number of seeds and of unfinished runs, or a single run's progress."""
        if len(self.curves) == 1:
            return self.label + self.curves[0].progress
        unfinished = sum(not curve.run.finished for curve in self.curves)
        return f"{self.label} ({len(self.curves)} seeds" + (f", {unfinished} unfinished)" if unfinished else ")")

    @property
    def final_top1(self) -> float:
        """Median over seeds of the last top-1 error so far."""
        return statistics.median(curve.averaged[-1]["top1_error"] for curve in self.curves)

    def run_label(self, curve: Curve) -> str:
        """Label of one of the group's runs."""
        return self.label if len(self.curves) == 1 else f"{self.label}, seed {curve.seed}"


def groups_of(curves: Sequence[Curve]) -> list[Group]:
    """Groups of curves: the paper's pairs in its order, pure before residual, then other networks.

    The result does not depend on the order of the curves. A run of another length belongs to another group, and so does
    a repetition of a seed.
    """
    members: list[list[Curve]] = []
    for curve in sorted(curves, key=_sort_key):
        home = next((group for group in members if _is_member(curve, group)), None)
        if home is None:
            members.append(home := [])
        home.append(curve)
    by_seed = [sorted(group, key=lambda curve: curve.seed) for group in members]
    return [Group(label, tuple(group)) for label, group in zip(_labels(by_seed), by_seed, strict=True)]


def common_seeds(*groups: Group) -> list[int]:
    """Seeds that all groups were run with, in increasing order."""
    return sorted(set.intersection(*(set(group.by_seed) for group in groups)))


def best_of_each_network(groups: Sequence[Group]) -> list[Group]:
    """For each network and depth, the group with the lowest median final top-1 error, the first of equals."""
    best: dict[str, Group] = {}
    for group in groups:
        if group.network not in best or group.final_top1 < best[group.network].final_top1:
            best[group.network] = group
    return list(best.values())


def _is_member(curve: Curve, group: Sequence[Curve]) -> bool:
    first = group[0]
    same = set(differences(curve.run.experiment, first.run.experiment)) <= {"seed"}
    return same and curve.run.info.steps == first.run.info.steps and curve.seed not in [c.seed for c in group]


def _sort_key(curve: Curve) -> tuple[Any, ...]:
    """Sort key that makes the order of the curves independent of the order of the directories."""
    pair = pair_of(curve.model)
    values = to_flat_dict(curve.run.experiment)
    settings = [_sortable(values[field]) for field in sorted(values) if field != "seed"]
    number = PAIRS.index(pair) if pair in PAIRS else len(PAIRS)  # type: ignore[arg-type]
    own = (curve.run.info.steps, curve.seed, curve.run.info.name, str(curve.run.directory))
    return number, pair, curve.residual, curve.model, settings, own


def _sortable(value: Any) -> tuple[int, Any]:
    # The same field may be None, a number, a string or a tuple in different experiments.
    if value is None:
        return 0, 0
    return (1 if isinstance(value, int | float) else 2 if isinstance(value, str) else 3), value


def _labels(groups: Sequence[Sequence[Curve]]) -> list[str]:
    """Label of each group: its network and, if several groups have that network, what distinguishes them.

    That is the first of these that is unique to each group: the one or two fields in which it differs, its first run's
    name without the seed, that run's directory, its path.
    """
    labels = [group[0].network for group in groups]
    for network in set(labels):
        same = [number for number, group in enumerate(groups) if group[0].network == network]
        if len(same) == 1:
            continue
        members = [groups[number] for number in same]
        directories = [group[0].run.directory for group in members]
        candidates: list[Sequence[str | None]] = [
            _fields(members),
            [_name(group) for group in members],
            [printable(directory.name) for directory in directories],
            [printable(str(directory)) for directory in directories],
        ]
        texts = next((c for c in candidates if len(set(c)) == len(same) and None not in c), candidates[-1])
        for number, text in zip(same, texts, strict=True):
            labels[number] = f"{network}, {text}" if text else network
    return labels


def _fields(groups: Sequence[Sequence[Curve]]) -> list[str | None]:
    """Distinguishing settings of each group, such as 'rate 0.0045'; None if there are too many.

    A value that more than half of the groups share is omitted, so that the labels of an ablation show only what was
    changed.
    """
    flat = [to_flat_dict(group[0].run.experiment) for group in groups]
    common = {}
    for field in flat[0]:
        value, count = Counter(values[field] for values in flat).most_common(1)[0]
        if count > len(flat) / 2:
            common[field] = value
    first = groups[0][0].run.experiment
    changed = {field for group in groups for field in differences(group[0].run.experiment, first)} - {*_NOT_IN_LABELS}
    text: list[str | None] = []
    for values in flat:
        own = [f for f in values if f in changed and (f not in common or values[f] != common[f])]
        text.append(", ".join(map(_field, own, (values[f] for f in own))) if len(own) <= _MAX_FIELDS else None)
    return text


def _field(name: str, value: Any) -> str:
    short = name.rpartition(".")[2]
    short = _ABBREVIATIONS.get(short, short)
    if isinstance(value, tuple):
        value = "/".join(map(str, value))
    return f"{short} {value:g}" if isinstance(value, float) else f"{short} {value}"


def _name(group: Sequence[Curve]) -> str:
    """Name of a group's first run, without its seed if there are several."""
    name, seed = group[0].run.info.name, group[0].seed
    return re.sub(rf"[-_ ]?(?:seed|s)[-_ ]?{seed}$|[-_ ]{seed}$", "", name) if len(group) > 1 else name
