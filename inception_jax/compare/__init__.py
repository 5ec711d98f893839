"""Comparison of runs: error over epochs as in Figures 21-26 of arXiv 1602.07261, and a test of the paper's two claims.

Runs that differ only in their seed form a group, drawn as one line: their median, with a band. Imports no JAX.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from inception_jax.compare import figures
from inception_jax.compare.claims import pairings_of, verdicts_of
from inception_jax.compare.figures import draw_errors
from inception_jax.compare.records import as_csv, as_json, directories_in
from inception_jax.compare.report import markdown
from inception_jax.compare.runs_to_groups import curves_of, groups_of
from inception_jax.errors import UserError
from inception_jax.runs import Run, read_run
from inception_jax.system.atomic import atomic_write, refuse_existing

_CURVES, _TABLES = ("curves.png", "curves.svg"), ("comparison.md", "comparison.csv", "comparison.json")


def compare(directories: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Compare runs: write curves.png, curves.svg and comparison.md, .csv and .json into `out`; return their paths.

    Each file is written atomically and does not depend on the order of the directories; a directory given twice counts
    once. UserError if there is no run, or none has been evaluated.
    """
    all_curves = curves_of(_read(directories))
    curves = [curve for curve in all_curves if curve.averaged]
    if not curves:
        raise UserError(f"{all_curves[0].run.directory} has not been evaluated yet; wait for its first evaluation.")
    unevaluated = [curve for curve in all_curves if not curve.averaged]
    unevaluated.sort(key=lambda curve: str(curve.run.directory))
    groups = groups_of(curves)
    pairings = pairings_of(groups)
    verdicts = verdicts_of(pairings)
    drawn = draw_errors(groups)
    tables = [markdown(groups, unevaluated, pairings, verdicts), as_csv(groups), as_json(verdicts, pairings)]
    encoded = [drawn["png"], drawn["svg"], *(table.encode(errors="backslashreplace") for table in tables)]
    return _write(dict(zip((*_CURVES, *_TABLES), encoded, strict=True)), Path(out))


def check_out(
    directories: Sequence[str | Path], metrics: Sequence[str], out: str | Path, *, overwrite: bool = False
) -> None:
    """Raises UserError where `out` has files that would be replaced, unless they are of these runs or `overwrite`.

    An earlier comparison of these runs, or of some of them, is made anew as they go on.
    """
    out = Path(out)
    known = directories_in(out / "comparison.csv")
    if known and known <= {Path(directory).resolve() for directory in directories}:
        return
    drawn = [f"{figures.file_name(name)}.{form}" for name in metrics for form in ("png", "svg")]
    for name in (*_CURVES, *_TABLES, *drawn):
        refuse_existing(out / name, overwrite=overwrite)


def draw_metrics(directories: Sequence[str | Path], names: Sequence[str], out: str | Path) -> list[Path]:
    """Draw each training metric over steps as NAME.png and NAME.svg in `out`; return their paths.

    `NAME/` stands for all metrics under that name (figures.py). UserError, before anything is written, if the runs have
    no such metric.
    """
    if not names:
        return []
    groups = groups_of(curves_of(_read(directories)))
    contents = {}
    for name in names:
        drawn = figures.draw_metric(groups, name)
        contents.update({f"{figures.file_name(name)}.{form}": content for form, content in drawn.items()})
    return _write(contents, Path(out))


def _read(directories: Sequence[str | Path]) -> list[Run]:
    unique = {Path(directory).resolve(): Path(directory) for directory in directories}
    if not unique:
        raise UserError("there is no run to compare; give the directory of at least one run.")
    return [read_run(directory) for directory in unique.values()]


def _write(contents: Mapping[str, bytes], out: Path) -> list[Path]:
    for name, content in contents.items():
        with atomic_write(out / name) as file:
            file.write(content)
    return [out / name for name in contents]
