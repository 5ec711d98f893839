"""Verbs for networks and their weights: summary, import, export, predict."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from inception_jax.cli.arguments import PROG, arg
from inception_jax.config import DataConfig, Experiment, ModelConfig, TrainConfig
from inception_jax.errors import UserError


@dataclasses.dataclass
class Summary:
    """Print a network's stages with output shapes, parameters and multiply-adds."""

    model: Annotated[tyro.conf.Positional[str], arg(metavar="MODEL")]
    """inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2, ..."""
    image_size: int = 299
    """Side of the input in pixels; 75 or more."""
    num_classes: int = 1000
    """Number of classes; 0 for no classifier."""
    width: float = 1.0
    """Factor on the features of every convolution."""
    depths: Annotated[tuple[int, int, int] | None, arg(metavar="A B C")] = None
    """Number of blocks at the 35, 17 and 8 grids."""
    memory: bool = False
    """Also predict the memory of training; compiles the step twice, one or two minutes at full size."""
    dtype: Annotated[Literal["float32", "bfloat16"], arg(metavar="DTYPE")] = "float32"
    """Dtype for --memory: float32 or bfloat16."""
    remat: bool = False
    """Rematerialisation for --memory: predict as trained with --train.remat."""
    batches: Annotated[tuple[int, int], arg(metavar="N M")] = (8, 32)
    """Two batch sizes to compile for --memory, in images per device."""
    gigabytes: Annotated[tuple[float, ...], arg(metavar="GB ...")] = (16, 32, 80)
    """Memory sizes, of 1,000,000,000 bytes, to find the largest batch for with --memory."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.models import create_model, summary

        if not self.memory and any(getattr(self, name) != getattr(Summary, name) for name in _MEMORY_FLAGS):
            raise UserError(f"{', '.join(f'--{name}' for name in _MEMORY_FLAGS)} belong to --memory; give that, too.")
        model = create_model(self.model, num_classes=self.num_classes, width=self.width, depths=self.depths)
        rows = summary.summarize(model, self.image_size)
        text, extra = summary.table(rows), {}
        if self.memory:
            from inception_jax.benchmark import step_memory

            predicted = step_memory.predict(self._training(), self.batches, self.gigabytes)
            text, extra = f"{text}\n\n{step_memory.table(predicted)}", {"memory": dataclasses.asdict(predicted)}
        print(summary.to_json(self.model, self.image_size, rows, **extra) if self.json else text)
        return 0

    def _training(self) -> Experiment:
        return Experiment(
            model=ModelConfig(
                self.model, num_classes=self.num_classes, width=self.width, depths=self.depths, dtype=self.dtype
            ),
            data=DataConfig(image_size=self.image_size),
            train=TrainConfig(remat=self.remat),
        )


_MEMORY_FLAGS = ("dtype", "remat", "batches", "gigabytes")


@dataclasses.dataclass
class Import:
    """Import timm's, Keras' or facenet's weights as a checkpoint."""

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """File (.safetensors, .h5, .weights.h5, .keras, .pt, .pth, .bin, .ckpt), a directory with one, or
    hf://OWNER/MODEL."""
    out: Annotated[tyro.conf.Positional[str], arg(metavar="OUT")]
    """Directory of the new checkpoint."""
    model: Annotated[str, arg(metavar="NAME")]
    """inception_v3, inception_v4, inception_resnet_v2, inception_resnet_v1_facenet."""
    format: Annotated[str, arg(metavar="FORMAT")] = "timm"
    """timm, keras or facenet; inception_jax for files that only this package writes."""
    num_classes: Annotated[int | None, arg(metavar="INT")] = None
    """Number of classes of a new head that replaces the source's; 0 drops it."""
    copy: Annotated[str | None, arg(metavar="NAME")] = None
    """Copy of the network to take from a file with several, such as state_dict_ema; by default the averaged one."""
    drop_background: bool = False
    """Drop the first of TensorFlow's 1001 labels."""
    class_names: Annotated[str | None, arg(metavar="FILE")] = None
    """Text file with one class name per line."""
    overwrite: bool = False
    """Replace OUT where it is such a checkpoint."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.data.sources import list_names
        from inception_jax.models import describe
        from inception_jax.system.workdir import check_place
        from inception_jax.weights import importer

        check_place(self.out)
        model, preprocessing = importer.import_checkpoint(
            self.source,
            self.out,
            self.model,
            format=self.format,
            num_classes=self.num_classes,
            copy=self.copy,
            drop_background=self.drop_background,
            class_names=self.class_names,
            overwrite=self.overwrite,
        )
        name = describe(model)["name"]
        # The peers call two networks of their own by names that the paper has for others.
        called = name if name == self.model else f"{name} ({self.format}'s {self.model})"
        print(
            f"{self.out}: {called} with {model.num_classes} classes; images of {preprocessing.image_size} pixels, "
            f"central {preprocessing.central_fraction:g}, {preprocessing.resize}"
        )
        if preprocessing.class_names:
            print(f"{self.out} knows {list_names('class', preprocessing.class_names)}")
        if name != self.model:
            print(f"to fine-tune it: inception-jax train FILE --init-from {self.out} --model.name {name}")
        return 0


@dataclasses.dataclass
class Export:
    """Export a trained network; the file is verified by its logits before it is put in place."""

    checkpoint: Annotated[tyro.conf.Positional[str], arg(metavar="RUN")]
    """A run, RUN/checkpoints/STEP, or an imported or exported checkpoint."""
    out: Annotated[tyro.conf.Positional[str], arg(metavar="OUT")]
    """The new file, or for orbax the directory."""
    format: Annotated[str, arg(metavar="FORMAT")]
    """orbax, safetensors (timm's names), keras, stablehlo or onnx."""
    raw: bool = False
    """Use the raw parameters rather than the averaged ones."""
    best: bool = False
    """Use a run's checkpoint with the lowest validation error rather than its newest."""
    with_preprocessing: bool = False
    """Let a stablehlo or onnx file take uint8 images."""
    overwrite: bool = False
    """Replace OUT where it exists, once the new one has been compared."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import runs
        from inception_jax.system.workdir import check_place
        from inception_jax.weights import export
        from inception_jax.weights.checkpoint import load_checkpoint

        check_place(self.out, *runs.trained_on(self.checkpoint))
        trained = load_checkpoint(self.checkpoint, raw=self.raw, best=self.best)
        difference = export.export_checkpoint(
            trained,
            self.out,
            format=self.format,
            with_preprocessing=self.with_preprocessing,
            overwrite=self.overwrite,
        )
        print(f"{self.out}: written and read again; the maximum difference of the logits is {difference:.2g}")
        if beside := export.FORMATS[self.format].beside:
            print(f"{self.out}{beside}: class names, preprocessing, and shapes of input and output")
        return 0


@dataclasses.dataclass
class Predict:
    """Print the most likely classes of pictures."""

    checkpoint: Annotated[tyro.conf.Positional[str], arg(metavar="RUN")]
    """A run, RUN/checkpoints/STEP, or an imported or exported checkpoint."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], arg(metavar="IMAGE ...")]
    """Image files of any size; unreadable ones are named and skipped."""
    top: int = 5
    """Number of classes to print per picture."""
    batch_size: int = 16
    """Number of pictures per step."""
    best: bool = False
    """Use a run's checkpoint with the lowest validation error rather than its newest."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import predict

        if not self.images or min(self.top, self.batch_size) < 1:
            raise UserError("predict needs at least one picture, and --top and --batch-size of 1 or more.")
        answers = []
        # Not larger than needed: a single picture need not wait for fifteen empty rows.
        batch_size = min(self.batch_size, len(self.images))
        predictor = predict.Predictor(self.checkpoint, best=self.best, batch_size=batch_size)
        for answer in predict.predict(predictor, self.images, top=self.top):
            answers.append(answer)
            if "error" in answer:
                print(f"{PROG}: {answer['error']}", file=sys.stderr)
            elif not self.json:
                print(predict.table(answer))
        if self.json:
            print(json.dumps({"checkpoint": self.checkpoint, "predictions": answers}))
        return 1 if any("error" in answer for answer in answers) else 0
