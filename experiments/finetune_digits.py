"""Fine-tuning on few images: handwritten digits from a network of garments, against training from scratch.

    apt-get install dataset-fashion-mnist
    inception-jax train fashion_mnist --workdir runs/fashion_mnist
    inception-jax compare finetune_digits --workdir runs/finetune_digits
    python experiments/finetune_digits.py runs/finetune_digits finetuning.png    # in a checkout: table and picture

The narrow Inception-ResNet-v2 of fashion_mnist.py, trained on 4,000 garments, is fine-tuned by the recipe of
finetune.py on 10, 30 and 100 digits of each class: the whole network, or with all but the head frozen. The third method
trains the same network from scratch. Garments and digits have little in common, so this is a hard case.

Each method has the best of four learning rates with 30 images a class (`inception-jax compare finetune_digits_rates`,
seed 0; the study has seeds 1 to 3):

    rate                    0.015    0.05    0.15    0.45
    from scratch             26.5     7.0     5.4     8.7
    whole network            11.8     7.6     5.6     9.3
    head only                23.1    16.3    14.6    14.6

Cost: 27 runs of a quarter of a minute on two cores. The results are in docs/finetuning.md.
"""

import dataclasses
import statistics
import sys
from pathlib import Path

from finetune import RECIPE

from inception_jax.config import DataConfig, Experiment, ModelConfig
from inception_jax.runs import Run, read_run

PRETRAINED_RUN = "runs/fashion_mnist"
STEPS = {10: 100, 30: 200, 100: 300}
"""Steps of 20 images, by the number of images a class."""
RATES = {"scratch": 0.15, "whole": 0.15, "head": 0.45}
SEEDS = (1, 2, 3)
DECAY = 0.99
"""Decay of BN statistics and of the averaged parameters; in all runs the ramp is below it, and below the recipe's."""
METHODS = {"scratch": "from scratch", "whole": "whole network", "head": "head only"}


def run(method: str, images: int, seed: int, learning_rate: float) -> Experiment:
    """One of the methods on so many images of each class."""
    model = dataclasses.replace(RECIPE.model, bn_momentum=DECAY)
    own = ModelConfig(name="inception_resnet_v2", width=0.25, bn_momentum=DECAY)
    return Experiment(
        seed=seed,
        model=own if method == "scratch" else model,
        data=DataConfig(
            source="digits",
            training_images=10 * images,
            image_size=75,
            crop_area=(0.6, 1.0),
            flip=False,  # A mirrored digit is another digit.
            colour=False,
            central_fraction=1.0,
        ),
        optim=dataclasses.replace(RECIPE.optim, learning_rate=learning_rate, reference_batch=None, ema_decay=DECAY),
        train=dataclasses.replace(
            RECIPE.train,
            batch_size=20,
            steps=STEPS[images],
            log_every=20,
            checkpoint_every=STEPS[images],
            init_from=None if method == "scratch" else PRETRAINED_RUN,
            new_head=method != "scratch",  # The classes of both are named 0 to 9, but are others.
            freeze="all" if method == "head" else None,
        ),
        evaluation=dataclasses.replace(RECIPE.evaluation, every_epochs=STEPS[images] * 2 / images / 4, batch_size=360),
    )


def runs() -> dict[str, Experiment]:
    """Each method on each number of images, seed by seed."""
    return {
        f"{method}_{images}_{seed}": run(method, images, seed, RATES[method])
        for images in STEPS
        for method in METHODS
        for seed in SEEDS
    }


def final_errors(directory: Path) -> dict[tuple[str, int], list[float]]:
    """Final top-1 errors in % of the averaged parameters, one per seed, by method and images a class."""
    errors: dict[tuple[str, int], list[float]] = {}
    for path in sorted(directory.glob("*_*_*/config.json")):
        method, images, _ = path.parent.name.split("_")
        errors.setdefault((method, int(images)), []).append(_final_error(read_run(path.parent)))
    return errors


def _final_error(done: Run) -> float:
    *_, last = (m for m in done.metrics if m.get("parameters") == "averaged")
    return 100 * last["top1_error"]


def table(errors: dict[tuple[str, int], list[float]]) -> str:
    """Markdown table: for each method and number of images the median, minimum and maximum over the seeds."""
    lines = [f"| images a class | {' | '.join(map(str, STEPS))} |", "|---" * (1 + len(STEPS)) + "|"]
    for method, words in METHODS.items():
        cells = [errors[method, images] for images in STEPS]
        texts = [f"{statistics.median(cell):.1f} % ({min(cell):.1f}-{max(cell):.1f})" for cell in cells]
        lines.append(f"| {words} | {' | '.join(texts)} |")
    return "\n".join(lines)


def draw(errors: dict[tuple[str, int], list[float]], out: Path) -> None:
    """Draws the error against the number of images: a line through the medians, and a bar from minimum to maximum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    # Side by side, so that bars of the same number of images do not cover one another.
    for (method, words), marker, shift in zip(METHODS.items(), "os^", (0.97, 1.0, 1.03), strict=True):
        cells = [errors[method, images] for images in STEPS]
        middle = [statistics.median(cell) for cell in cells]
        below = [m - min(cell) for m, cell in zip(middle, cells, strict=True)]
        above = [max(cell) - m for m, cell in zip(middle, cells, strict=True)]
        places = [shift * images for images in STEPS]
        axes.errorbar(places, middle, yerr=[below, above], label=words, marker=marker, capsize=3)
    axes.set(xscale="log", yscale="log", xlabel="training images of each class", ylabel="top-1 error on 355 digits (%)")
    for axis, ticks in ((axes.xaxis, list(STEPS)), (axes.yaxis, [2, 5, 10, 20])):
        axis.set_ticks(ticks, labels=list(map(str, ticks)))
        axis.set_ticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    found = final_errors(Path(sys.argv[1]))
    print(table(found))
    draw(found, Path(sys.argv[2]))
