"""Which groups are set against each other, and what comes of it."""

import dataclasses
import functools
from collections.abc import Sequence

from inception_jax.compare.curves import PAIRS, pair_of
from inception_jax.compare.endings import Ending, endings
from inception_jax.compare.groups import Group, best_of_each_network, common_seeds
from inception_jax.compare.intervals import Estimate, estimate
from inception_jax.compare.races import COSTS, EPOCHS, Cost, Heat, heat, levels, mean_log_ratio
from inception_jax.config import differences

SAME = "same settings"
BEST = "each at its own best"

# Settings are the same where no field but these differs: they are the network itself.
_THE_NETWORK = {"seed", "model.name", "model.depths", "model.residual_scales"}


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A pure and a residual network of a pair in `PAIRS`, each at one setting."""

    pure: Group
    residual: Group
    reasons: tuple[str, ...]
    """`SAME`, `BEST` or both."""

    @property
    def label(self) -> str:
        """Both labels."""
        return f"{self.pure.label} and {self.residual.label}"

    @functools.cached_property
    def seeds(self) -> list[int]:
        """Those that both were run with."""
        return common_seeds(self.pure, self.residual)

    @functools.cached_property
    def heats(self) -> list[list[Heat]]:
        """For each level that tells the two apart a heat for each cost."""
        found = levels(self.pure.curves, self.residual.curves)
        return [[heat(self.pure, self.residual, level, cost) for cost in COSTS] for level in found]

    @functools.cached_property
    def endings(self) -> list[Ending]:
        """The final errors at equal costs."""
        return endings(self.pure, self.residual)

    def log_speed_up(self, cost: Cost = EPOCHS) -> Estimate | None:
        """Over the seeds in common, of the mean logarithm of the speed-up over the levels; None without such seeds."""
        ours, theirs = self.pure.by_seed, self.residual.by_seed
        return estimate([mean_log_ratio(ours[s], theirs[s], cost) for s in self.seeds]) if self.seeds else None


def pairings_of(groups: Sequence[Group]) -> list[Pairing]:
    """Every two groups of a pair at the same settings, and every two networks of it each at its own best setting.

    A network at other depths is another network here. In the order of the groups.
    """
    best = best_of_each_network(groups)
    found = []
    for pair in PAIRS:
        members = [group for group in groups if pair_of(group.model) == pair]
        for pure in (group for group in members if not group.residual):
            for residual in (group for group in members if group.residual):
                same = set(differences(pure.experiment, residual.experiment)) <= _THE_NETWORK
                own_best = pure in best and residual in best
                reasons = (SAME,) * same + (BEST,) * own_best
                if reasons:
                    found.append(Pairing(pure, residual, reasons))
    return found
