"""Scaling of the residuals on Fashion-MNIST: four scales, two widths, up to three learning rates.

Reproduces: section 3.3 of arXiv 1602.07261, where Inception-ResNets with more than 1,000 filters "died" in training,
the last layer before the average pooling producing only zeros, unless the residuals were scaled down before addition.

    inception-jax compare residual_scaling --workdir runs/residual_scaling
    python experiments/residual_scaling.py runs/residual_scaling    # in a checkout: table of activations and gradients
    inception-jax compare runs/residual_scaling/wide_0.045_* --out DIR --metrics zero_share

Inception-ResNet-v2 at full width (384, 1,152 and 2,144 filters) and at a quarter of it, at 75 pixels, for STEPS steps
of 16 images: too few to converge, but enough to see a network die. About 25 minutes on two cores.

Found (docs/residual_scaling.md): at the paper's rate and width the unscaled network reaches 99.6 % zeros, with a scale
of 0.1 84 %; the narrow one dies at a rate of 0.15, but not with a scale of 0.1.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from fashion_mnist import base

from inception_jax.config import EvaluationConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from inception_jax.runs import Run, read_run

SCALES = (1.0, 0.3, 0.2, 0.1)
WIDTHS = {"narrow": 0.25, "wide": 1.0}
RATES = {"narrow": (0.045, 0.15, 0.45), "wide": (0.045,)}
STEPS = 150


def run(scale: float, width: float, rate: float) -> Experiment:
    """One network; as in the paper, without clipping and warm-up."""
    return Experiment(
        model=ModelConfig(name="inception_resnet_v2", width=width, bn_momentum=0.9, residual_scales=(scale,)),
        data=dataclasses.replace(base(epochs=1).data, validation_images=500),
        optim=OptimConfig(learning_rate=rate, clip_norm=None, ema_decay=0.95),
        train=TrainConfig(
            batch_size=16, steps=STEPS, log_every=5, checkpoint_every=STEPS, stage_norms=True, dead_steps=20
        ),
        evaluation=EvaluationConfig(every_epochs=STEPS * 16 / 4000, batch_size=250),
    )


def runs() -> dict[str, Experiment]:
    """Every scale at every width and rate."""
    return {
        f"{name}_{rate:g}_{scale:g}": run(scale, width, rate)
        for name, width in WIDTHS.items()
        for rate in RATES[name]
        for scale in SCALES
    }


def row(done: Run) -> list[str]:
    """Table row of a run, from its training metrics."""
    lines = [m for m in done.metrics if m["split"] == "train"]
    (final,) = (m for m in done.metrics if m.get("parameters") == "averaged")
    last, half = lines[-1], lines[len(lines) // 2 :]
    dead = next(
        (m["step"] for m in lines if all(n["zero_share"] > 0.999 for n in lines if n["step"] >= m["step"])), None
    )
    model = done.experiment.model
    return [
        f"{model.width:g}",
        f"{done.experiment.optim.learning_rate:g}",
        f"{model.residual_scales[0]:g}",
        f"{last['step']}",
        f"{max(m['loss'] for m in lines):.3g}",
        f"{statistics.median(m['loss'] for m in half):.3g}",
        f"{100 * final['top1_error']:.2f}",
        f"{last['zero_share']:.1%}",
        f"{dead}" if dead is not None else "alive",
        *(f"{last[f'activation_rms/{stage}']:.3g}" for stage in ("block_a_5", "block_b_10", "block_c_5")),
        *(f"{last[f'gradient_norm/{stage}']:.3g}" for stage in ("stem_conv_1", "block_b_10", "block_c_5")),
    ]


HEADER = "width|rate|scale|steps|greatest loss|median loss, second half|final top-1|zeros before the pool"
HEADER += "|dead from step|activations A|B|C|gradient stem|B|C"


def table(directories: Sequence[Path]) -> str:
    """Markdown table with a row for each run, wide networks last."""
    rows = sorted((row(read_run(d)) for d in directories), key=lambda r: [float(r[0]), float(r[1]), -float(r[2])])
    header = HEADER.split("|")
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


if __name__ == "__main__":
    print(table(sorted(path.parent for path in Path(sys.argv[1]).glob("*/config.json"))))
