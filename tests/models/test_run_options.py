"""Options of a run: each is read by a hook, has one default, and refuses what it can't mean."""

import dataclasses
from pathlib import Path

import pytest

from fairseq_mhmoe.integration.run_settings import DEFAULTS
from fairseq_mhmoe.models.options import validate
from fairseq_mhmoe.models.run_options import RunOptions

HOOKS = Path(__file__).resolve().parents[2] / "fairseq_mhmoe" / "integration"
FIELDS = {field.name: field.default for field in dataclasses.fields(RunOptions) if not field.name.startswith("_")}


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_read_by_a_hook(name):
    assert any(f'"{name}"' in path.read_text() for path in HOOKS.glob("*.py") if path.name != "run_settings.py")


def test_models_without_these_options_get_their_defaults():
    assert {name: FIELDS[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("max_nonfinite", 0, "1 or more updates"),
        ("loss_spike_window", 7, "8 updates or more"),
        ("loss_spike_threshold", 0.0, "positive number"),
        ("loss_spike_updates", 128, "less than --loss-spike-window 128"),
        ("max_rewinds", -1, "0 or more"),
        ("peak_tflops", 0.0, "above 0"),
    ],
)
def test_what_can_not_be_meant_is_refused_by_name(options, name, value, message):
    with pytest.raises(ValueError, match=message) as error:
        validate(options(**{name: value}))
    assert "--" + name.replace("_", "-") in str(error.value) and str(value) in str(error.value)
