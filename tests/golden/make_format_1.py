"""Makes format_1.tar.xz, the files of format 1: a finished run, a run stopped half way, and exports of the first.

Run once, by the version that introduced the format, and never again: tests/test_file_format.py holds that every later
version reads them. A new format gets a script and an archive of its own. On four devices, as the tests run:

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/golden/make_format_1.py
"""

import contextlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from inception_jax.config import DataConfig, EvaluationConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from inception_jax.errors import Preempted
from inception_jax.evaluation import EvaluationOptions, evaluate
from inception_jax.system.preemption import Preemption
from inception_jax.train import fit
from inception_jax.weights.checkpoint import load_checkpoint
from inception_jax.weights.export import export_checkpoint

EXPERIMENT = Experiment(
    model=ModelConfig(name="inception_resnet_v1", width=0.015, depths=(1, 1, 1), bn_momentum=0.9),
    data=DataConfig(source="digits", image_size=75, flip=False, training_images=64, validation_images=48),
    optim=OptimConfig(learning_rate=0.001, ema_decay=0.9),
    train=TrainConfig(batch_size=16, steps=6, log_every=1, checkpoint_every=6, keep=1),
    evaluation=EvaluationConfig(every_epochs=1.5, batch_size=48),
)


class StopAfterThree(Preemption):
    """Stops the run after its third step, as SIGTERM would."""

    def reached(self, step: int) -> bool:
        return step == 3


def make(out: Path) -> None:
    """Writes the files into `out`."""
    fit(EXPERIMENT, out / "finished", name="finished")
    with contextlib.suppress(Preempted):
        fit(EXPERIMENT, out / "half", name="half", preemption=StopAfterThree())
    trained = load_checkpoint(out / "finished")
    export_checkpoint(trained, out / "exported", format="orbax")
    export_checkpoint(trained, out / "exported.safetensors", format="safetensors")
    for run in ("finished", "half"):
        shutil.rmtree(out / run / "tensorboard")
        (out / run / ".lock").unlink()
    summary = evaluate([str(out / "finished")], EvaluationOptions(data="digits", image_size=75))
    images = np.float32(np.linspace(-1, 1, 2 * 75 * 75 * 3)).reshape(2, 75, 75, 3)
    logits = trained.model.apply(trained.variables, images, train=False)
    numbers = {"digits_top1_error": summary["models"][0]["top1_error"], "logits": np.asarray(logits).tolist()}
    (out / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory))
        with tarfile.open(Path(__file__).parent / "format_1.tar.xz", "w:xz") as archive:
            archive.add(directory, arcname="format_1")
