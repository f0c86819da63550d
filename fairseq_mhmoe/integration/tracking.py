"""Weights & Biases for a training, and trackers that are asked for and not installed; for fairseq 0.12.3.1.

There, a missing package is a line among many, and nothing is tracked; every start makes a new run; a configuration that
changed between two starts, or a server that does not answer, ends the training; each figure is a request of its own.
Here a missing package is an error before anything is loaded. A training is one run, whose number stands in --save-dir,
however often it is started; what wandb can't do is said once, and the training goes on. Only rank 0 tracks.
"""

import importlib.util
import json
import logging
import os
from numbers import Number
from pathlib import Path

from fairseq.distributed import utils as distributed_utils
from fairseq.logging import progress_bar
from fairseq.logging.meters import AverageMeter
from fairseq.logging.progress_bar import WandBProgressBarWrapper
from fairseq.trainer import Trainer

from fairseq_mhmoe.checkpoint.writing import write_text
from fairseq_mhmoe.integration.hooks import wrap

RUN_FILE = "wandb_run.json"
STEP = "num_updates"
SECRET = ("secret", "password", "passwd", "api_key", "apikey", "credential", "access_token", "auth_token")
LOCAL = {"distributed_init_method"}  # names machines
OFFLINE = ("offline", "dryrun")

logger = logging.getLogger(__name__)


class _Tracking:
    """The one run of this process."""

    folder = None  # where its number is kept; None with --no-save
    run = None
    started = False  # or tried to


def install():
    """Installs the hooks of this file."""
    wrap(distributed_utils, "call_main", call_main)
    wrap(Trainer, "__init__", start_trainer)
    wrap(WandBProgressBarWrapper, "__init__", start_bar)
    wrap(WandBProgressBarWrapper, "update_config", update_config)
    wrap(WandBProgressBarWrapper, "_log_to_wandb", log)


def call_main(original, cfg, main, **kwargs):
    """Starts a program whose run ends with it.

    Raises:
        ValueError: a tracker is asked for, and its package is not installed.
    """
    check_packages(cfg.common)
    return original(cfg, Tracked(main), **kwargs)


def check_packages(common):
    """ValueError if figures are to be sent or written by a package that is not there."""
    trackers = (
        ("--tensorboard-logdir", common.tensorboard_logdir, progress_bar.SummaryWriter is not None, "tensorboard"),
        ("--wandb-project", common.wandb_project, importlib.util.find_spec("wandb") is not None, "wandb"),
        ("--aim-repo", common.aim_repo, progress_bar.get_aim_run is not None, "aim"),
        ("--azureml-logging", common.azureml_logging, progress_bar.Run is not None, "azureml-core"),
    )
    for option, value, is_there, package in trackers:
        if value and not is_there:
            given = option if value is True else f"{option} {value}"
            raise ValueError(
                f"{given}: the package {package} is not installed, so nothing would be tracked; "
                f"pip install {package}, or leave the option out"
            )


class Tracked:
    """A program's main function; it pickles, for processes that fairseq spawns itself."""

    def __init__(self, main):
        self.main = main

    def __call__(self, cfg, **kwargs):
        """Runs the program, and ends the run as it ended."""
        try:
            result = self.main(cfg, **kwargs)
        except BaseException as error:
            finish(0 if isinstance(error, SystemExit) and not error.code else 1)
            raise
        finish(0)
        return result


def finish(status):
    """Ends the run, if there is one; what wandb has not sent yet is sent now."""
    run, _Tracking.run = _Tracking.run, None
    if run is not None:
        attempt("the run was not ended", run.finish, exit_code=status)


def start_trainer(original, self, cfg, *args, **kwargs):
    """Starts the trainer; its folder keeps the number of the run."""
    original(self, cfg, *args, **kwargs)
    _Tracking.folder = None if cfg.checkpoint.no_save else Path(cfg.checkpoint.save_dir)


def start_bar(_original, self, wrapped_bar, wandb_project, run_name=None):
    """A progress bar of an epoch or a validation; the first one starts the run."""
    self.wrapped_bar = wrapped_bar
    if not _Tracking.started:
        _Tracking.started = True
        _Tracking.run = attempt("no run was started", start_run, wandb_project, run_name)
        if _Tracking.run is None:
            _Tracking.run = attempt("nothing is tracked", start_run, wandb_project, run_name, mode="offline")


def attempt(failure, function, *args, **kwargs):
    """What a function of wandb returns; None, and a warning, where it fails, whatever the reason."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning(
            f"Weights & Biases: {failure} ({reason}); the training goes on. With WANDB_MODE=offline figures are "
            "written to disk, and `wandb sync` sends them later"
        )
        return None


def start_run(project, name, mode=None):
    """Starts the run of this training, or goes on with it; raises what wandb raises."""
    import wandb  # takes a second and a half, and only those who ask for it should wait

    folder, known = _Tracking.folder, number_of_run(project)
    offline = (mode or os.environ.get("WANDB_MODE", "")) in OFFLINE
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    # output, code, command line and machine stay here: they name files and people
    settings = wandb.Settings(console="off", disable_code=True, disable_git=True, x_disable_meta=True)
    run = wandb.init(
        project=project,
        name=name,
        id=known,
        resume=None if offline else "allow",
        dir=os.environ.get("WANDB_DIR") or folder,
        mode=mode,
        settings=settings,
    )
    run.define_metric(STEP)
    # updates that a resume or a rewind makes again are kept, where wandb's own step must never go back
    run.define_metric("*", step_metric=STEP)
    if folder is not None:
        write_text(folder / RUN_FILE, json.dumps({"project": project, "id": run.id}))
    logger.info(f"Weights & Biases: run {run.id} of {project}" + (", offline" if offline else ""))
    return run


def number_of_run(project):
    """The number of the run that a training in the same folder began; None for a new one."""
    if os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"]
    try:
        known = json.loads((_Tracking.folder / RUN_FILE).read_text())
        return known["id"] if known["project"] == project else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def update_config(_original, self, config):
    """Tells the run its configuration, as far as it concerns others."""
    run = _Tracking.run
    if run is not None:
        attempt("the configuration was not sent", run.config.update, presentable(config), allow_val_change=True)
    self.wrapped_bar.update_config(config)


def presentable(value, name=""):
    """A configuration without secrets and machines, and with names of files instead of paths from the root."""
    if isinstance(value, dict):
        kept = {str(key): presentable(inner, str(key)) for key, inner in value.items() if not is_private(str(key))}
        return kept
    if isinstance(value, (list, tuple)):
        return [presentable(inner, name) for inner in value]
    if isinstance(value, str):
        return ":".join(Path(part).name if part.startswith("/") else part for part in value.split(":"))
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def is_private(name):
    """Whether an option may hold a secret or name a machine."""
    return name in LOCAL or any(word in name.lower() for word in SECRET)


def log(_original, self, stats, tag=None, step=None):
    """Sends the figures of a line, in one piece."""
    run = _Tracking.run
    if run is None:
        return
    prefix = "" if tag is None else f"{tag}/"
    figures = {name: value.val if isinstance(value, AverageMeter) else value for name, value in stats.items()}
    figures = {f"{prefix}{name}": value for name, value in figures.items() if isinstance(value, Number)}
    figures.pop(f"{prefix}{STEP}", None)
    figures[STEP] = stats[STEP] if step is None else step
    attempt("a line of figures was not sent", run.log, figures)
