"""Options of a training run (`RunOptions`), for a trainer; models of fairseq have none, and get the defaults."""

DEFAULTS = {
    "on_nonfinite": "stop",
    "max_nonfinite": 10,
    "on_loss_spike": "log",
    "loss_spike_window": 128,
    "loss_spike_threshold": 6.0,
    "loss_spike_updates": 10,
    "max_rewinds": 3,
    "disk_reserve": 0.0,
}


def run_setting(cfg, name):
    """The value of an option, by its name in `RunOptions`."""
    return getattr(cfg.model, name, DEFAULTS[name])
