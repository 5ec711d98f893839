"""Networks of timm and facenet-pytorch, with the optimiser and average of timm's training script."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import torch

from inception_jax.system.memory import peak_megabytes
from peers import cases
from peers.cases import Case
from peers.step import Contestant


def prepare(case: Case, *, channels_last: bool, compiled: bool) -> Contestant:
    """Prepare the network in a memory layout and, with `compiled`, with torch.compile as in timm's script."""
    configure(case.device)
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = create(case).to(case.device, memory_format=layout)
    images = torch.rand(case.batch_size, 3, case.image_size, case.image_size) * 2 - 1
    images = images.to(case.device, memory_format=layout)
    forward = torch.compile(network) if compiled else network
    make = inference if case.mode == "infer" else training
    step = make(case, network, forward, images)

    return Contestant(
        launch=lambda: start_copy(step().sum()),
        wait=wait,
        units=case.batch_size,
        device=device_name(case.device),
        peak_megabytes=gpu_peak_megabytes if case.device == "cuda" else peak_megabytes,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def create(case: Case) -> torch.nn.Module:
    """Create the network with initial parameters and the paper's dropout."""
    name = cases.PYTORCH[case.model]
    if name is None:
        from facenet_pytorch import InceptionResnetV1

        return InceptionResnetV1(classify=False, dropout_prob=cases.DROPOUT)
    import timm

    return timm.create_model(name, num_classes=case.classes, drop_rate=cases.DROPOUT)


def inference(case: Case, network: torch.nn.Module, forward: Any, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A step that returns the logits."""
    network.eval()

    @torch.inference_mode()
    def step() -> torch.Tensor:
        with autocast(case):
            return forward(images)

    return step


def training(case: Case, network: torch.nn.Module, forward: Any, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A training step that returns the loss."""
    from timm.optim import RMSpropTF
    from timm.utils import ModelEmaV3

    network.train()
    labels = torch.randint(case.classes, (case.batch_size,), device=case.device)
    average = ModelEmaV3(network, decay=cases.EMA_DECAY, exclude_buffers=True)
    parameters = list(network.parameters())
    kernels = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    optimizer = RMSpropTF(
        [{"params": kernels, "weight_decay": cases.WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=case.learning_rate,
        alpha=cases.RMS_DECAY,
        eps=cases.RMS_EPSILON,
        momentum=cases.MOMENTUM,
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(case):
            loss = torch.nn.functional.cross_entropy(forward(images), labels, label_smoothing=cases.LABEL_SMOOTHING)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, cases.CLIP_NORM)
        optimizer.step()
        average.update(network)
        return loss.detach()

    return step


def autocast(case: Case) -> contextlib.AbstractContextManager:
    """PyTorch's automatic mixed precision for a bfloat16 case."""
    return torch.autocast(case.device, torch.bfloat16, enabled=case.dtype == "bfloat16")


def configure(device: str) -> None:
    """Use all cores; on a GPU enable cuDNN's autotuning and TF32, which JAX uses for float32 by default."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


def start_copy(number: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Start copying a result to the host; returns the argument of `wait`: the copy, and on a GPU its event."""
    if number.device.type == "cpu":
        return number, None
    # A copy started in `wait` would be queued behind the next step, which has been launched by then.
    on_host, end = number.to("cpu", non_blocking=True), torch.cuda.Event()
    end.record()
    return on_host, end


def wait(step: tuple[torch.Tensor, Any]) -> float:
    """Wait for a copy from `start_copy` and return the number."""
    number, end = step
    if end is not None:
        end.synchronize()
    return float(number)


def device_name(device: str) -> str:
    """Name of the GPU, or 'cpu'."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def gpu_peak_megabytes() -> float:
    """Peak memory of tensors on the GPU, in 10^6 bytes."""
    return torch.cuda.max_memory_allocated() / 1e6
