"""hydra's composing of a configuration, which each program of fairseq does when it starts, not all done again.

What a text means, and what a choice of groups (task=gpt, optimizer=adam, ...) brings along, is found out once in a
process and its forks; test_composing.py holds that nothing else changes. What a program that starts on its own does,
and what fairseq-hydra-train does, is hydra's own.
"""

import copy

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

compose_all = ConfigLoaderImpl._load_configuration_impl
parsed, composed = {}, {}


def parse(texts):
    """hydra's reading of texts such as "optimization.lr=[0.01]"."""
    new = [text for text in texts if text not in parsed]
    parsed.update(zip(new, OverridesParser.create().parse_overrides(new)))
    return [parsed[text] for text in texts]


def compose(self, config_name, overrides, run_mode, from_shell=True, validate_sweep_overrides=True):
    """The groups, then single values, in hydra's order; what is in cfg.hydra fairseq does not ask for."""
    if from_shell or run_mode != RunMode.RUN:  # fairseq-hydra-train
        return compose_all(self, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
    is_value = ["." in text.partition("=")[0] for text in overrides]
    groups = [text for text, single in zip(overrides, is_value) if not single]
    values = parse([text for text, single in zip(overrides, is_value) if single])
    self.validate_sweep_overrides_legal(values, run_mode, from_shell)
    key = (config_name, str(self.config_search_path), *groups)
    if key not in composed:
        composed[key] = compose_all(self, config_name, groups, run_mode, from_shell)
    cfg = copy.deepcopy(composed[key])
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    return cfg


def remember():
    """From now on, in this process and its forks."""
    ConfigLoaderImpl._load_configuration_impl = compose
