"""Run stages one after another with datatrove's executors: on this machine, as Slurm arrays, or on a Ray cluster.

What the pinned datatrove (0.10) does not do as one would wish is put right here, each place says what.
"""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import multiprocess
from datatrove.executor import slurm
from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

import data_prep.dedup  # noqa: F401  in a task on another machine, the steps that follow need its import of datatrove
from data_prep.files import write_text
from data_prep.local_tasks import LocalExecutor

KINDS = ("local", "slurm", "ray")
ROOT = Path(__file__).resolve().parents[1]
# Ray's bookkeeping only: how many tasks a node gets
RAY_MEMORY_GB = 1
# what may stand unquoted in the job files that datatrove writes
PLAIN = re.compile(r"[A-Za-z0-9_./:,=@%+-]+")


@dataclass(frozen=True)
class Stage:
    """Steps that run in `tasks` independent tasks. again: also those that were finished before."""

    name: str
    steps: Sequence[PipelineStep]
    tasks: int
    again: bool = False


@dataclass(frozen=True)
class Executor:
    """Where stages run.

    kind: "local", "slurm" or "ray". workers: tasks at the same time; None: as many as there are cores (local), CPUs
    (Ray), or no limit (Slurm). slurm_partition, slurm_time, slurm_mem_per_cpu (GB; a task has one CPU), slurm_sbatch
    (further options of sbatch by name): of the jobs. ray_address: of a running cluster; None: Ray's own rules, at last
    a new local one. dry_run: show what would run, run nothing.
    """

    kind: str = "local"
    workers: int | None = None
    slurm_partition: str | None = None
    slurm_time: str = "24:00:00"
    slurm_mem_per_cpu: int = 4
    slurm_sbatch: Mapping[str, str] = field(default_factory=dict)
    ray_address: str | None = None
    dry_run: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"executor is {self.kind!r}; expected one of {', '.join(KINDS)}")
        for name in ("workers", "slurm_mem_per_cpu"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        if self.kind == "slurm" and not self.slurm_partition:
            raise ValueError("Slurm needs the name of a partition (--slurm-partition)")
        for value in (self.slurm_partition or "", self.slurm_time, *self.slurm_sbatch, *self.slurm_sbatch.values()):
            if value and not PLAIN.fullmatch(value):
                raise ValueError(f"{value!r} for Slurm; expected letters, digits and _./:,=@%+-")


def run_stages(stages: Sequence[Stage], logs: Path, executor: Executor) -> dict[str, float]:
    """Run what is not finished, each stage after the one before; LOGS/<stage> keeps datatrove's marks and logs.

    Slurm: submit all of it and return.

    Returns:
        stage -> seconds that it took, of those that ran here.
    Raises:
        RuntimeError: tasks failed on the cluster; tells the first one's error. Local tasks raise their own error.
    """
    if executor.dry_run and executor.kind != "slurm":
        for stage in stages:
            print(f"stage {stage.name}: {stage.tasks} tasks: {', '.join(map(str, stage.steps))}")
        return {}
    for stage in stages:
        if stage.again:
            shutil.rmtree(logs / stage.name / "completions", ignore_errors=True)
    if executor.kind == "slurm":
        _submit(stages, logs, executor)
        return {}
    with _ray(executor) if executor.kind == "ray" else nullcontext():
        return _run_here(stages, logs, _ray_stage if executor.kind == "ray" else _local_stage, executor)


def _run_here(stages: Sequence[Stage], logs: Path, make: Callable, executor: Executor) -> dict[str, float]:
    seconds = {}
    for stage in stages:
        logger.info(f"stage {stage.name}")
        start = time.monotonic()
        # no `depends`: with that, datatrove's executors wait for ever for tasks that have failed
        pipeline = make(stage, logs / stage.name, executor)
        finished = not pipeline.get_incomplete_ranks()
        pipeline.run()
        missing = pipeline.get_incomplete_ranks()
        if missing:
            failures = sorted((logs / stage.name / "failures").glob("*.txt"))
            error = failures[0].read_text(encoding="utf-8") if failures else "no error was left"
            raise RuntimeError(f"stage {stage.name}: {len(missing)} of {stage.tasks} tasks failed: {error}")
        if not finished:
            seconds[stage.name] = time.monotonic() - start
    return seconds


def _local_stage(stage: Stage, logs: Path, executor: Executor) -> PipelineExecutor:
    # the server that forks the tasks imports fairseq once, instead of each task for itself
    modules = {"data_prep.stages", *(type(step).__module__ for step in stage.steps)}
    multiprocess.get_context("forkserver").set_forkserver_preload(sorted(modules))
    workers = min(stage.tasks, executor.workers or os.cpu_count() or 1)
    return LocalExecutor(
        list(stage.steps),
        tasks=stage.tasks,
        workers=workers,
        logging_dir=str(logs),
    )


class RayExecutor(RayPipelineExecutor):
    """datatrove's, which neither tells why a task failed nor that one did."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        failure = Path(self.logging_dir.resolve_paths("failures")) / f"{rank:05d}.txt"
        failure.unlink(missing_ok=True)
        try:
            # not Ray's own: that logs to one folder for all runs and users of a machine
            return PipelineExecutor._run_for_rank(self, rank, local_rank, node_rank)
        except Exception as error:
            write_text(failure, f"task {rank}: {type(error).__name__}: {error}")
            raise


def _ray_stage(stage: Stage, logs: Path, executor: Executor) -> PipelineExecutor:
    import ray

    workers = min(stage.tasks, executor.workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
    return RayExecutor(
        list(stage.steps),
        tasks=stage.tasks,
        workers=workers,
        logging_dir=str(logs),
        mem_per_cpu_gb=RAY_MEMORY_GB,
        log_first=True,
    )


@contextmanager
def _ray(executor: Executor) -> Iterator[None]:
    """Connect to Ray, unless the caller has; what was connected here is disconnected again."""
    import ray

    connected = ray.is_initialized()
    if not connected:
        # workers import this package from where it is now
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), *_python_path()])}}
        options = {"runtime_env": environment, "log_to_driver": False}
        if not (executor.ray_address or os.environ.get("RAY_ADDRESS")):
            options |= {"num_cpus": executor.workers, "include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=executor.ray_address, **options)
    try:
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("memory", 0) >= RAY_MEMORY_GB * 2**30 and node.get("CPU", 0) >= 1 for node in resources):
            # datatrove would wait for ever for a place for the task
            raise RuntimeError(
                f"no node of the Ray cluster offers a task 1 CPU and {RAY_MEMORY_GB} GB; it has {resources}"
            )
        yield
    finally:
        if not connected:
            ray.shutdown()


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


class SlurmExecutor(slurm.SlurmPipelineExecutor):
    """datatrove's, which asks scontrol for the names of nodes, on nodes that may not have it."""

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """datatrove's variables; no step here runs on several nodes."""
        return DistributedEnvVars(
            datatrove_node_ips=os.environ.get("SLURMD_NODENAME", ""),
            datatrove_cpus_per_task=str(self.cpus_per_task),
            datatrove_mem_per_cpu=str(self.mem_per_cpu_gb),
            datatrove_gpus_on_node="0",
            datatrove_executor="SLURM",
        )


def _submit(stages: Sequence[Stage], logs: Path, executor: Executor) -> None:
    if not PLAIN.fullmatch(str(logs.resolve())):
        raise ValueError(f"{logs.resolve()}: Slurm's job files cannot name it; use letters, digits and _./:,=@%+-")
    path = os.pathsep.join([str(ROOT), *_python_path()])
    environment = f"export PYTHONPATH={shlex.quote(path)} PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    before = None
    with _printing() if executor.dry_run else nullcontext():
        for stage in stages:
            before = SlurmExecutor(
                list(stage.steps),
                tasks=stage.tasks,
                time=executor.slurm_time,
                partition=executor.slurm_partition,
                mem_per_cpu_gb=executor.slurm_mem_per_cpu,
                workers=executor.workers or -1,
                job_name=f"data_prep-{stage.name}",
                qos=None,
                env_command=environment,
                # a job whose dependency has failed would wait in the queue for ever
                sbatch_args={"kill-on-invalid-dep": "yes", **executor.slurm_sbatch},
                depends=before,
                logging_dir=str((logs / stage.name).resolve()),
            )
            before.launch_job()


@contextmanager
def _printing() -> Iterator[None]:
    """Print job files instead of handing them to sbatch; each gets a made-up number for its dependents."""
    original, numbers = slurm.launch_slurm_job, iter(range(1, 10**9))

    def show(contents: str, _job_id_retriever: Callable, *arguments: str) -> str:
        number = next(numbers)
        print(f"# job {number}: sbatch {shlex.join([*arguments, 'FILE'])}, FILE being\n{contents}")
        return str(number)

    slurm.launch_slurm_job = show
    try:
        yield
    finally:
        slurm.launch_slurm_job = original
