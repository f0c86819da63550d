"""Wrapping a function of somebody else."""

import types

from fairseq_mhmoe import integration
from fairseq_mhmoe.integration.hooks import wrap


def double(original, value):
    return 2 * original(value)


def negate(original, value):
    return -original(value)


def owner():
    return types.SimpleNamespace(function=lambda value: value + 1)


def test_the_hook_sees_the_original():
    module = owner()
    wrap(module, "function", double)
    assert module.function(1) == 4


def test_installing_twice_wraps_once():
    module = owner()
    wrap(module, "function", double)
    wrap(module, "function", double)
    assert module.function(1) == 4


def test_two_concerns_may_wrap_one_function():
    module = owner()
    wrap(module, "function", double)
    wrap(module, "function", negate)
    wrap(module, "function", double)
    assert module.function(1) == -4


def test_state_kept_on_the_function_survives():
    module = owner()
    module.function.best = 3.5
    wrap(module, "function", double)
    assert module.function.best == 3.5


def test_installing_every_hook_again_changes_nothing():
    from fairseq import checkpoint_utils, options, utils
    from fairseq.distributed import utils as distributed_utils

    def functions():
        return [
            options.parse_args_and_arch,
            utils.import_user_module,
            checkpoint_utils.load_checkpoint_to_cpu,
            distributed_utils.call_main,
        ]

    before = functions()
    integration.install()
    assert functions() == before
