"""Loading checkpoints, whatever number of processes wrote them, with the trainer and the programs of fairseq 0.12.3.1.

* Files are read by `checkpoint.loading.load`: nothing in them is executed. torch's page of advice becomes one line.
* Who asks for a checkpoint gets a state as if one process had written it; a trainer or model whose experts are spread
  over P ranks gets its own rows only, and every rank reads them itself instead of receiving all from rank 0.
* "ensure that the architectures match" is followed by what does not.
* A new training that starts with another's weights (the optimizer is reset: --finetune-from-model) may have other
  heads and sizes, if the model knows how to make such weights fit; a resume may not.
* Evaluation within a job of several processes builds models with all experts, unless it asked for spread ones.
"""

from contextlib import contextmanager

from fairseq import checkpoint_utils, trainer
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.file_io import PathManager
from omegaconf import OmegaConf

from fairseq_mhmoe.checkpoint.converting import PARAMETERS, expert_names
from fairseq_mhmoe.checkpoint.layout import put_experts, slice_experts, take_experts
from fairseq_mhmoe.checkpoint.loading import load
from fairseq_mhmoe.checkpoint.manifest import checked_reference
from fairseq_mhmoe.checkpoint.reading import check_has_experts, read_experts, reference_of
from fairseq_mhmoe.checkpoint.writing import REFERENCE
from fairseq_mhmoe.integration import checkpoint_contents as contents
from fairseq_mhmoe.integration import resume
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.moe import parallel

_readers = []  # who reads, innermost last


def install():
    """Installs the hooks of this file."""
    wrap(checkpoint_utils, "load_checkpoint_to_cpu", load_checkpoint_to_cpu)
    wrap(checkpoint_utils, "load_model_ensemble_and_task", load_model_ensemble_and_task)
    wrap(checkpoint_utils, "load_ema_from_checkpoint", load_average)
    wrap(trainer.Trainer, "load_checkpoint", load_into_trainer)


def load_checkpoint_to_cpu(original, path, arg_overrides=None, load_on_all_ranks=False):
    """Loads a checkpoint in the form that fairseq's code expects.

    Raises:
        DamagedCheckpoint: a file is cut, changed or missing.
        ForeignCheckpoint: reading it would run code.
        ValueError: it holds no experts, or their number does not fit the number of processes.
    """
    if PathManager.path_requires_pathmanager(path):
        return original(path, arg_overrides, load_on_all_ranks)
    state = load(path)
    check_has_experts(path, state)
    reference = checked_reference(path, state)
    state.pop(REFERENCE, None)
    state = in_fairseqs_form(state, arg_overrides)
    read = _readers[-1] if _readers else read_everything
    return read(state, path, reference)


def in_fairseqs_form(state, arg_overrides):
    """What stock code does with a state that it has read."""
    if state.get("args") is not None:
        for name, value in (arg_overrides or {}).items():
            setattr(state["args"], name, value)
    if state.get("cfg") is not None:
        state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        if arg_overrides is not None:
            overwrite_args_by_name(state["cfg"], arg_overrides)
    return checkpoint_utils._upgrade_state_dict(state)


@contextmanager
def reading_with(reader):
    """Checkpoints loaded inside are completed by reader(state without shards, path, reference or None) -> state."""
    _readers.append(reader)
    try:
        yield
    finally:
        _readers.pop()


def read_everything(state, path, reference):
    """All experts."""
    return state if reference is None else put_experts(state, read_experts(path, reference))


def read_rows(state, path, reference, group, names, order=()):
    """The experts of this rank of a group.

    Args:
        names: of expert parameters; for a single file, which does not tell.
        order: names of trained parameters by their number in the optimizer, for a file that does not tell either.
    """
    if reference is not None:
        return put_experts(state, read_experts(path, reference, group.rank, group.size))
    order = state.get(PARAMETERS, order)
    rest, experts = take_experts(state, names, contents.numbers_of(names, order))
    return put_experts(rest, slice_experts(experts, group.rank, group.size))


def load_into_trainer(original, trainer, filename, *args, **kwargs):
    """Loads a checkpoint into a trainer of any number of processes. Collective.

    Raises:
        ValueError: also where the model differs: with the names or shapes that do.
    """
    model, cfg = trainer.get_model(), trainer.cfg.checkpoint
    group = parallel.group_of(model)
    starts_anew = args[0] if args else kwargs.get("reset_optimizer", False)

    def read(state, path, reference):
        if group.size == 1:
            state = read_everything(state, path, reference)
        else:
            order = [name for name, _ in contents.trained_parameters(trainer)]
            state = read_rows(state, path, reference, group, contents.expert_names(model), order)
        resume.fit_to(state, trainer)
        resume.check_task(state, trainer.task, starts_anew)
        return state

    on_all_ranks = cfg.load_checkpoint_on_all_dp_ranks
    cfg.load_checkpoint_on_all_dp_ranks = on_all_ranks or group.size > 1
    try:
        with reading_with(read), fitting_weights(model if starts_anew else None):
            extra_state = original(trainer, filename, *args, **kwargs)
    except Exception as error:
        if "ensure that the architectures match" in str(error) and error.__context__ is not None:
            raise ValueError(f"{error} {differences(error.__context__)}") from error.__context__
        raise
    finally:
        cfg.load_checkpoint_on_all_dp_ranks = on_all_ranks
    resume.restore_average(trainer, extra_state)
    return extra_state


@contextmanager
def fitting_weights(model):
    """Inside, a model that can do so makes weights of another task or image size fit itself; None: no model."""
    fits = hasattr(model, "fits_other_checkpoints")
    if fits:
        model.fits_other_checkpoints = True
    try:
        yield
    finally:
        if fits:
            model.fits_other_checkpoints = False


def differences(error):
    """What load_state_dict complains about, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line) or type(error).__name__
    return text if len(text) <= 1000 else f"{text[:1000]} ..."


def load_average(original, fpath):
    """Reads the average of weights of a single file (--ema-seed-model).

    Raises:
        ValueError: the experts are in files of their own, which this function of fairseq would leave out.
    """
    if not PathManager.path_requires_pathmanager(fpath) and reference_of(fpath) is not None:
        raise ValueError(f"{fpath} has its experts in other files: make one file of it with mhmoe-checkpoint merge")
    return original(fpath)


def load_model_ensemble_and_task(original, *args, **kwargs):
    """Loads models to use them: with all experts here, or inside `widest_groups` with this rank's."""
    if not parallel.in_widest_groups():
        with parallel.all_experts_here(), reading_with(read_everything):
            return original(*args, **kwargs)
    with reading_with(read_for_widest_groups):
        return original(*args, **kwargs)


def read_for_widest_groups(state, path, reference):
    """The experts that this rank will hold in the model that is about to be built."""
    count = state["cfg"].model.get("moe_expert_count", 0) if state.get("cfg") is not None else 0
    group = parallel.expert_group(count) if count else parallel.ExpertGroup()
    if group.size == 1:
        return read_everything(state, path, reference)
    return read_rows(state, path, reference, group, expert_names(state))
