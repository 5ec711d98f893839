"""Writes `peer_files`: small models as PyTorch and Keras save them. Run with torch 2.13 and keras 3.15, by hand.

Every array holds its number of elements counted from 0, so that the tests need no other file.
"""

import argparse
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
import torch
from keras import layers

FOLDER = Path(__file__).parent / "peer_files"


def write_torch() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 3))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.save(model.state_dict(), FOLDER / "state.pt")
    torch.save(model.state_dict(), FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({k: v.bfloat16() for k, v in model.state_dict().items()}, FOLDER / "bfloat16.ckpt")
    trainer = {
        "state_dict": torch.nn.DataParallel(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(3.0),
        "class_to_idx": {"dog": 1, "cat": 0, "fox": 2},
        "epoch": 7,
    }
    torch.save(trainer, FOLDER / "trainer.pth.tar")
    torch.save(model, FOLDER / "module.bin")


def write_keras() -> None:
    base = keras.Sequential(
        [keras.Input((80, 80, 3)), layers.Conv2D(2, 3, use_bias=False), layers.BatchNormalization(scale=False)],
        name="base",
    )
    outer = [layers.RandomFlip(), layers.Rescaling(1 / 255), base, layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((80, 80, 3)), *outer, layers.Dropout(0.2), layers.Dense(3)])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.set_weights([np.arange(w.size).reshape(w.shape) for w in model.get_weights()])
    for name in ("model.h5", "model.keras"):
        model.save(FOLDER / name)
    model.save_weights(FOLDER / "model.weights.h5")


write_torch()
write_keras()
