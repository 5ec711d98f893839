"""Handwritten runs, for the tests of inception_jax.compare."""

import dataclasses
import html
import json
import xml.etree.ElementTree

from inception_jax import config, runs
from inception_jax.compare.runs_to_groups import curves_of, groups_of

BATCH = 10
MULTIPLY_ADDS = {"inception_v3": 100, "inception_resnet_v1": 110, "inception_v4": 200, "inception_resnet_v2": 220}
NETWORKS = ("inception_v3", "inception_resnet_v1", "inception_v4", "inception_resnet_v2")


def write_run(
    directory, model, top1, /, *, name=None, raw=(), top5=None, speeds=(), steps=None, seconds=10.0, seed=0, **fields
):
    """Write a run that is evaluated after each epoch of 6 steps, which take `seconds`.

    `fields` change the experiment, e.g. optim={"momentum": 0.0}.
    """
    top5 = top5 or [error / 2 for error in top1]
    lines = []
    for k, error in enumerate(top1):
        place = {"step": 6 * (k + 1), "epoch": float(k + 1), "seconds": seconds * (k + 1)}
        if k < len(speeds):
            lines.append({**place, "split": "train", "loss": 1.0, "images_per_second": speeds[k]})
        line = {**place, "split": "validation", "loss": 1.0, "images": 400}
        lines.append({**line, "parameters": "averaged", "top1_error": error, "top5_error": top5[k]})
        if k < len(raw):
            lines.append({**line, "parameters": "raw", "top1_error": raw[k], "top5_error": raw[k] / 2})
    experiment = config.Experiment(
        seed=seed, model=config.ModelConfig(name=model), train=config.TrainConfig(batch_size=BATCH)
    )
    for part, values in fields.items():
        changed = dataclasses.replace(getattr(experiment, part), **values)
        experiment = dataclasses.replace(experiment, **{part: changed})
    info = runs.RunInfo(
        name or model, steps or 6 * len(top1), 60, 400, 12_345, MULTIPLY_ADDS.get(model, 50), "a machine"
    )
    runs.write_config(directory, info, experiment)
    (directory / runs.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def write_seeds(directory, model, errors, **options):
    """Write a run for each list of errors, with seeds from 0."""
    return [
        write_run(directory / f"{model}-{seed}", model, top1, name=f"{model}-{seed}", seed=seed, **options)
        for seed, top1 in enumerate(errors)
    ]


def curves(*directories):
    return curves_of([runs.read_run(directory) for directory in directories])


def groups(*directories):
    return groups_of(curves(*directories))


def tables(path):
    """Tables of a Markdown file as lists of dictionaries; repeated column names get the column's number."""
    found, block = [], []
    for line in [*path.read_text().splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif block:
            header = [f"{cell} {i}" if block[0].count(cell) > 1 else cell for i, cell in enumerate(block[0])]
            found.append([dict(zip(header, cells, strict=True)) for cells in block[2:]])
            block = []
    return found


def texts(svg):
    """Texts of an SVG, from the comments beside the outlines as which Matplotlib draws them."""
    parser = xml.etree.ElementTree.XMLParser(target=xml.etree.ElementTree.TreeBuilder(insert_comments=True))
    root = xml.etree.ElementTree.fromstring(svg, parser)
    return [
        html.unescape(element.text.strip()) for element in root.iter() if element.tag is xml.etree.ElementTree.Comment
    ]
