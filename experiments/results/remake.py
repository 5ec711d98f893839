"""Remake the published comparisons from the published runs, after a change to the output of `inception-jax compare`.

    python experiments/results/remake.py

Writes comparison.md, comparison.csv, comparison.json and curves.png of every study with a comparison;
tests/test_results.py checks that they are up to date.
"""

import os
from pathlib import Path

from inception_jax.compare import compare

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent.relative_to(ROOT)
STUDIES = (
    *("residual_vs_pure_fashion", "residual_vs_pure_fashion_rates", "residual_vs_pure_why", "section_4_ablation"),
    *("finetune_digits", "finetune_digits_rates"),
)


def remake(study: str, out: Path) -> None:
    """Write a study's comparison into `out`; the working directory must be the root of the checkout."""
    compare(sorted((RESULTS / study / "runs").iterdir()), out)
    (out / "curves.svg").unlink()  # Large, and the same figure.


if __name__ == "__main__":
    os.chdir(ROOT)  # Directories in the tables are relative to it.
    for study in STUDIES:
        remake(study, RESULTS / study)
