"""From a configuration of fairseq-hydra-train, or options of fairseq-train, to the shape whose cost is counted."""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional, Sequence

from fairseq import options
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import omegaconf_no_object_check
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import fairseq_mhmoe  # noqa: F401  registers the models, tasks and criterions
from fairseq_mhmoe.models import multimodal_options
from fairseq_mhmoe.models.architectures import ARCHITECTURES, apply_architecture
from fairseq_mhmoe.models.multimodal import check_pictures
from fairseq_mhmoe.models.multimodal_architectures import MULTIMODAL_ARCHITECTURES
from fairseq_mhmoe.models.multimodal_options import MHMoEMultimodalConfig, multimodal_shape
from fairseq_mhmoe.models.option_checks import check_options
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig, lm_shape
from fairseq_mhmoe.moe.cost import LanguageModelShape
from fairseq_mhmoe.moe.multimodal_cost import MultimodalShape
from fairseq_mhmoe.tasks.masked_multimodal_options import MaskedMultimodalConfig

MODEL, MULTIMODAL = "mhmoe_lm", "mhmoe_multimodal"
PUBLISHED_CODES = 8192  # of BEiT v2's tokenizer, where the task does not say
HYDRA_VERSION = "1.1"  # whose rules fairseq-hydra-train asks for


@dataclass(frozen=True)
class CostedModel:
    """A model under the name that the user gave it."""

    name: str
    shape: LanguageModelShape | MultimodalShape


def config_model(path: str, overrides: Sequence[str] = (), vocab_size: Optional[int] = None) -> CostedModel:
    """The model of a training configuration such as configs/v1/english_dense.yaml.

    Args:
        overrides: as fairseq-hydra-train takes them, "model.moe_top_k=1".
        vocab_size: rows of the embedding; default: the file's cost.vocab_size.
    Raises:
        ValueError: no such file, not a configuration, another model, or no vocabulary size.
    """
    cfg = load_config(Path(path), overrides)
    size = cfg.get("cost", {}).get("vocab_size") if vocab_size is None else vocab_size
    if size is None:
        raise ValueError(f"{path} does not say how large the vocabulary is (cost.vocab_size); add --vocab-size V")
    if cfg.model._name == MULTIMODAL:
        return CostedModel(path, _multimodal_shape(cfg.model, cfg.task, size, path))
    if cfg.model._name != MODEL:
        raise ValueError(f"{path}: model {cfg.model._name}; costs are known of {MODEL} and {MULTIMODAL}")
    return CostedModel(path, _shape(cfg.model, cfg.task.tokens_per_sample, size, path))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Any:
    """What fairseq-hydra-train trains with for this file: composed, with all defaults, resolved.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    if not path.is_file() or path.suffix != ".yaml":
        wrong = "is no .yaml file" if path.exists() else "does not exist"
        raise ValueError(f"{path} {wrong}; expected a configuration, or an architecture: {_names()}")
    path = path.resolve()
    root = next((folder for folder in path.parents if (folder / "model").is_dir()), path.parent)
    name = path.relative_to(root).with_suffix("").as_posix()
    hydra_init(name)
    try:
        # what automatic schemas and old defaults lists will do one day concerns nobody who asks for a cost
        with warnings.catch_warnings(), initialize_config_dir(str(root), version_base=HYDRA_VERSION):
            warnings.simplefilter("ignore")
            cfg = compose(name, list(overrides))
        if cfg.get("model") is None or cfg.get("task") is None:
            raise ValueError(f"{path}: no model or no task in it; expected a training configuration as in configs/")
        add_defaults(cfg)
        with omegaconf_no_object_check():
            cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: {error}") from None
    return cfg


def words_model(words: Sequence[str], vocab_size: int) -> CostedModel:
    """The model that fairseq-train would build from these options, "--arch", "mhmoe_lm_v2", ...

    Raises:
        ValueError: options that fairseq-train would refuse.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--arch", "-a", default="")
    arch = parser.parse_known_args(words)[0].arch
    multimodal = arch in (MULTIMODAL, *MULTIMODAL_ARCHITECTURES)
    if not multimodal and arch not in (MODEL, *ARCHITECTURES):
        raise ValueError(f"--arch {arch}: expected one of {_names()}")
    parser = options.get_training_parser("masked_multimodal" if multimodal else "gpt")
    parser.error = _refuse
    criterion = "masked_multimodal" if multimodal else "moe_cross_entropy"
    args = options.parse_args_and_arch(parser, ["data", "--criterion", criterion, *words])
    if multimodal:
        cfg = MHMoEMultimodalConfig.from_namespace(args)
        return CostedModel(arch, _multimodal_shape(cfg, args, vocab_size, arch))
    cfg = MHMoELanguageModelConfig.from_namespace(args)
    return CostedModel(arch, _shape(cfg, args.tokens_per_sample, vocab_size, arch))


def preset_model(arch: str, vocab_size: int, tokens_per_sample: int, **changes: Any) -> CostedModel:
    """An architecture with some options of the model changed; no command line is parsed.

    A multimodal one has the task's default sizes, but for the text stream's tokens_per_sample.
    """
    if arch in MULTIMODAL_ARCHITECTURES:
        cfg = MHMoEMultimodalConfig(**{**MULTIMODAL_ARCHITECTURES[arch], **changes})
        task = MaskedMultimodalConfig(tokens_per_sample=tokens_per_sample)
        return CostedModel(arch, _multimodal_shape(cfg, task, vocab_size, arch))
    chosen = SimpleNamespace(**changes)
    apply_architecture(ARCHITECTURES[arch], chosen)
    task = dict(tokens_per_sample=tokens_per_sample, add_bos_token=False, max_target_positions=None)
    cfg = MHMoELanguageModelConfig(**{**task, **vars(chosen)})
    return CostedModel(arch, _shape(cfg, tokens_per_sample, vocab_size, arch))


def named_model(name: str, vocab_size: Optional[int], tokens_per_sample: int) -> CostedModel:
    """A configuration file, or an architecture with its own options.

    Raises:
        ValueError: it is neither.
    """
    if name not in ARCHITECTURES and name not in MULTIMODAL_ARCHITECTURES:
        return config_model(name, vocab_size=vocab_size)
    return preset_model(name, vocab_size, tokens_per_sample)


def _shape(cfg: Any, tokens_per_sample: int, vocab_size: int, name: str) -> LanguageModelShape:
    _check_positive(name, vocab_size=vocab_size, tokens_per_sample=tokens_per_sample)
    check_options(cfg)
    return lm_shape(cfg, vocab_size, tokens_per_sample)


def _multimodal_shape(cfg: Any, task: Any, vocab_size: int, name: str) -> MultimodalShape:
    texts = dict(tokens_per_sample=task.tokens_per_sample, caption_length=task.caption_length)
    _check_positive(name, vocab_size=vocab_size, **texts)
    check_pictures(task.image_size, task.patch_size)
    multimodal_options.check_options(cfg)
    return multimodal_shape(cfg, vocab_size, task.num_codes or PUBLISHED_CODES, task)


def _check_positive(model: str, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{model}: --{name.replace('_', '-')} {number}; expected a positive number")


def _names() -> str:
    return ", ".join([*ARCHITECTURES, *MULTIMODAL_ARCHITECTURES])


def _refuse(message: str) -> None:
    raise ValueError(f"{message} (fairseq-train --help lists all options)")
