"""Remake the published comparisons from the runs beside them, after a change to what `inception-jax compare` writes.

    python experiments/results/remake.py

Writes comparison.md, comparison.csv, comparison.json and curves.png of every study here that has a comparison;
tests/test_results.py holds that they are what the code makes of the runs.
"""

import os
from pathlib import Path

from inception_jax.compare import compare

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent.relative_to(ROOT)
STUDIES = ("residual_vs_pure_fashion", "residual_vs_pure_fashion_rates", "residual_vs_pure_why", "section_4_ablation")


def remake(study: str, out: Path) -> None:
    """Writes a study's comparison into `out`; the working directory must be the checkout's."""
    compare(sorted((RESULTS / study / "runs").iterdir()), out)
    (out / "curves.svg").unlink()  # Large, and the same picture.


if __name__ == "__main__":
    os.chdir(ROOT)  # The tables name directories from there.
    for study in STUDIES:
        remake(study, RESULTS / study)
