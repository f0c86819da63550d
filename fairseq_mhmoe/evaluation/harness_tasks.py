"""Tasks of lm-evaluation-harness: with their official YAML, and data from the hub or from local JSON lines.

    FOLDER/<task>/<split>.jsonl    a record a line, with the fields of the task's data set on the hub

A local task includes the official YAML and changes where the data come from (`dataset_path: json`); so prompts,
choices and metrics are the official ones.
"""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from fairseq_mhmoe.evaluation.harness_data import LocalData, find_local

GROUPS = Path(__file__).with_name("tasks")
OFFICIAL = Path(lm_eval.tasks.__file__).parent
# Folders of the tasks that our groups name: to look through all 14,000 YAML files of the harness takes half a minute.
FOLDERS = {
    "arc_challenge": "arc",
    "arc_easy": "arc",
    "boolq": "super_glue/boolq",
    "commonsense_qa": "commonsense_qa",
    "hellaswag": "hellaswag",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "rte": "glue/rte",
    "truthfulqa_mc1": "truthfulqa",
    "truthfulqa_mc2": "truthfulqa",
    "winogrande": "winogrande",
    **{f"xnli_{code}": "xnli" for code in "ar bg de el en es fr hi ru sw th tr ur vi zh".split()},
    "xnli": "xnli",
}
HUB_TIMEOUT_S = 10
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass
class Tasks:
    """What the harness is to evaluate."""

    loaded: dict  # as TaskManager.load gives it: tasks, groups, group_map
    local: dict[str, LocalData] = field(default_factory=dict)  # by task: its files, where they are local


def load_tasks(names: Sequence[str], local_data: Path | None, scratch: Path) -> Tasks:
    """Find the tasks, and load their data.

    Args:
        names: of tasks, groups or tags of the harness, our groups (evaluation/tasks), or YAML files.
        local_data: folder with <task>/<split>.jsonl; tasks that it has no folder for come from the hub.
        scratch: a folder for the YAML of local tasks and for what `datasets` makes of their files; to be kept as long
            as the tasks are in use.
    Raises:
        ValueError: no such task; its local files are wrong; or it needs the hub, which does not answer.
    """
    if local_data is not None and not local_data.is_dir():
        raise ValueError(f"--local-data {local_data}: no such folder; expected {local_data}/<task>/<split>.jsonl")
    manager = find_tasks(names)
    wanted = sorted(leaves(names, manager))
    local = {}
    for name in wanted:
        if local_data is not None and (local_data / name).is_dir():
            path = yaml_of(name, manager)
            local[name] = find_local(local_data / name, name, load_yaml(path, resolve_func=False))
            write_local_task(scratch, path, local[name])
    if local:
        folders = [*manager.include_path, scratch]
        manager = quietly_indexed(folders, everything=len(manager.all_tasks) > 1000)
    from_hub = [name for name in wanted if name not in local]
    reason = "nothing needs it" if not from_hub else hub_is_away()
    if reason:
        go_offline()
    return Tasks(dict(_load(names, manager, from_hub, reason, local)), local)


def find_tasks(names: Sequence[str]) -> TaskManager:
    """A manager that knows these tasks; ValueError for a name that nobody knows."""
    folders = sorted({str(OFFICIAL / folder) for folder in FOLDERS.values()})
    manager = quietly_indexed([*folders, str(GROUPS)], everything=False)
    if any(not known(name, manager) for name in names):
        print("looking for tasks in all of lm-evaluation-harness (about half a minute)", flush=True)
        manager = quietly_indexed([str(GROUPS)], everything=True)
    if missing := [name for name in names if not known(name, manager)]:
        ours = ", ".join(sorted(path.stem for path in GROUPS.glob("*.yaml")))
        raise ValueError(
            f"--tasks: lm-evaluation-harness has no {missing[0]!r}; expected one of its tasks or groups (lm-eval ls "
            f"tasks shows them), a YAML file, or one of {ours}"
        )
    return manager


def known(name: str, manager: TaskManager) -> bool:
    """Whether a name is in the index, or that of a YAML file."""
    return name in manager.task_index or (name.endswith(".yaml") and Path(name).is_file())


def quietly_indexed(folders: list, everything: bool) -> TaskManager:
    """A manager of the tasks in some folders; later ones win, without a warning, since that is what they are for."""
    logger = logging.getLogger("lm_eval.tasks._index")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return TaskManager(include_path=[str(folder) for folder in folders], include_defaults=everything)
    finally:
        logger.setLevel(level)


def leaves(names: Sequence[str], manager: TaskManager) -> Iterator[str]:
    """Names of the tasks behind names of tasks, groups and tags; not of YAML files, whose data are their own."""
    for name in names:
        entry = manager.task_index.get(name)
        if entry is None:
            continue
        children = entry.tags if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
        if isinstance(children, str) or children is None:
            yield name
        else:
            yield from leaves([child if isinstance(child, str) else child["task"] for child in children], manager)


def yaml_of(name: str, manager: TaskManager) -> Path:
    """The YAML file of a task; ValueError where it is a Python class."""
    entry = manager.task_index[name]
    if entry.kind.name != "TASK" or entry.yaml_path is None:
        raise ValueError(f"--local-data: {name} is no task of a YAML file, so that its data can't be exchanged")
    return entry.yaml_path


def write_local_task(scratch: Path, official: Path, data: LocalData) -> None:
    """Write the YAML of a task whose data are local."""
    content = {
        "include": str(official),
        "task": data.task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(path.absolute()) for split, path in data.files.items()},
            "cache_dir": str(scratch / "datasets"),
        },
        **{name: split if split in data.files else None for name, split in data.splits.items()},
    }
    (scratch / f"{data.task}.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def hub_is_away(timeout: float = HUB_TIMEOUT_S) -> str | None:
    """Why the hub can't be asked; None if it answers."""
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{name} is set"
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):  # nosec B310  the user's own setting names it
            return None
    except urllib.error.HTTPError:
        return None  # it answers, if not this question
    except (OSError, ValueError) as error:
        return f"{address} does not answer: {getattr(error, 'reason', error)}"


def go_offline() -> None:
    """Nothing of Hugging Face's asks the network from now on, in this process and those that it starts."""
    import datasets.config
    import huggingface_hub.constants

    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True


def _load(names, manager, from_hub, reason, local) -> dict:
    """TaskManager.load, its errors in our words."""
    try:
        return manager.load(list(names))
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if from_hub and reason and not isinstance(error, KeyError):
            raise ValueError(
                f"no data for {', '.join(from_hub)}: the Hugging Face hub is not to be had ({reason}), and its cache "
                f"lacks them; name with --local-data a folder that has {from_hub[0]}/<split>.jsonl ({told})"
            ) from error
        where = f"records of {', '.join(local)}: do they have the fields of the hub's data set? " if local else ""
        raise ValueError(f"--tasks {','.join(names)} can't be loaded: {where}{told}") from error
