"""What the other tests' programs start with is what hydra composes."""

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from omegaconf import OmegaConf

import fairseq_mhmoe  # noqa: F401  (its models and tasks)

from . import composing

LANGUAGE = "--task gpt --criterion moe_cross_entropy --optimizer adam --lr 0.01".split()
WORDS = {
    "defaults": [*LANGUAGE, "--arch", "dense_lm_tiny"],
    "others": [
        *LANGUAGE,
        "--arch",
        "dense_lm_tiny",
        "--lr",
        "0.5",
        "--save-dir",
        "it's, new",
        "--adam-betas",
        "(0.5, 0.6)",
    ],
    "experts": [*LANGUAGE, "--arch", "mhmoe_lm_tiny", "--lr-scheduler", "polynomial_decay", "--total-num-update", "9"],
    "multimodal": "--task vqa --criterion vqa --arch mhmoe_multimodal_tiny --optimizer sgd --update-freq 1,2".split(),
}


def configuration(words):
    parser = options.get_training_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, ["data", *words]))


@pytest.mark.parametrize("name", WORDS)
def test_a_configuration_is_the_one_that_hydra_composes(name, monkeypatch):
    with monkeypatch.context() as real:
        real.setattr(ConfigLoaderImpl, "_load_configuration_impl", composing.compose_all)
        expected = configuration(WORDS[name])
    composing.remember()
    for words in (WORDS["defaults"], WORDS[name], WORDS[name]):  # what was before leaves nothing behind
        found = configuration(words)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
    assert [*found] == [*expected] and [*found.model] == [*expected.model]


def test_what_hydra_refuses_is_refused_the_same(monkeypatch):
    args = options.parse_args_and_arch(options.get_training_parser(), ["data", *WORDS["defaults"]])
    args.log_format = "many"
    messages = []
    for compose in (composing.compose_all, composing.compose):
        monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", compose)
        with pytest.raises(HydraException) as caught:
            convert_namespace_to_omegaconf(args)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "many" in messages[0]
