from pathlib import Path

from setuptools import find_packages, setup

# flatbuffers: needed by jax.export to serialise, but not required by JAX.
WEIGHTS = ["safetensors>=0.4.5", "h5py>=3.12", "flatbuffers>=25.12"]
HERE = Path(__file__).parent


def requirements() -> list[str]:
    lines = (HERE / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="inception_jax",
    version="0.1.0",
    description="Inception-v4 and the Inception-ResNets of arXiv 1602.07261 in JAX and Flax, trained and compared",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=["inception", "inception-v4", "inception-resnet", "image classification", "jax", "flax"],
    # An SPDX expression replaces the licence classifier; setuptools rejects both together.
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["inception_jax", "inception_jax.*"]), "inception_jax.experiments"],
    # The experiments are a top-level folder in a checkout, and part of the package once installed.
    package_dir={"inception_jax.experiments": "experiments"},
    package_data={"inception_jax": ["py.typed"]},
    install_requires=requirements(),
    extras_require={
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "weights": WEIGHTS,
        # Newer versions of jax2onnx require an older Orbax than this package.
        "onnx": ["jax2onnx==0.13.0", "onnxruntime>=1.32"],
        "hub": ["huggingface_hub>=1.0"],
        # Displays the files of tensorboardX; does not need TensorFlow.
        "tensorboard": ["tensorboard>=2.21"],
        # Photographs of telephones; not a requirement, because its wheels contain libraries under the LGPL and GPL.
        "heic": ["pillow-heif>=1.8"],
        "gcs": ["gcsfs>=2026.10.1"],
        # For benchmarks/compare_peers.py; without facenet-pytorch, which needlessly requires an old PyTorch and NumPy.
        "peers": ["torch>=2.13", "timm>=1.0.31", "keras>=3.15"],
        # setuptools: builds the wheel in the tests, without network access.
        "test": [
            "pytest>=9.0",
            "pytest-xdist>=3.8",
            "hypothesis>=6.170",
            "ruff>=0.14",
            "mypy>=1.19",
            "setuptools>=80",
            *WEIGHTS,
        ],
    },
    entry_points={"console_scripts": ["inception-jax=inception_jax.cli:main"]},
)
