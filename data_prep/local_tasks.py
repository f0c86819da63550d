"""Run a stage's tasks on this machine, each in its own process; one that is killed ends the stage with an error."""

import pickle  # nosec B403  only to try whether an error can be sent
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from multiprocessing.connection import Connection, wait
from typing import Any

import multiprocess
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

import data_prep.dedup  # noqa: F401  before the steps are unpickled: they need its import of datatrove


class LocalExecutor(LocalPipelineExecutor):
    """datatrove's, but its pool of workers waits for ever for the task of one that the system has killed.

    Nor does it leave a manager process behind when it is killed itself.
    """

    def run(self) -> PipelineStats | None:
        """Run the tasks that are not finished, `workers` at the same time; with one worker in this process.

        Raises:
            RuntimeError: a task's process ended without a result. The first error of a task is raised as it is.
        """
        ranks = self.get_incomplete_ranks()
        if not ranks:
            logger.info(f"Not doing anything as all {self.tasks} tasks have already been completed.")
            return None
        self.save_executor_as_json()
        total, done = PipelineStats(), self.tasks - len(ranks)
        if done:
            logger.info(f"Skipping {done} already completed tasks")
        for stats in self._in_turn(ranks) if self.workers == 1 else self._side_by_side(ranks):
            total += stats
            done += 1
            logger.info(f"{done}/{self.tasks} tasks completed.")
        with self.logging_dir.open("stats.json", "wt") as file:
            total.save_to_disk(file)
        logger.success(total.get_repr(f"All {self.tasks} tasks"))
        return total

    def _in_turn(self, ranks: list[int]) -> Iterator[PipelineStats]:
        pipeline = self.pipeline
        for rank in ranks:
            self.pipeline = deepcopy(pipeline)  # steps keep their counts
            yield self._run_for_rank(rank)

    def _side_by_side(self, ranks: list[int]) -> Iterator[PipelineStats]:
        context = multiprocess.get_context(self.start_method)
        waiting, places = deque(ranks), list(range(self.workers))
        running: dict[Connection, tuple[Any, int, int]] = {}
        try:
            while waiting or running:
                while waiting and places:
                    rank, place = waiting.popleft(), places.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_run_task, args=(self, rank, place, sender), daemon=True)
                    process.start()
                    sender.close()  # so that the task's end is the end of what can be received
                    running[receiver] = process, rank, place
                for receiver in wait(list(running)):
                    process, rank, place = running[receiver]
                    yield _result(receiver, process, rank, self.logging_dir.path)
                    receiver.close()
                    del running[receiver]
                    places.append(place)
        finally:
            for process, *_ in running.values():
                process.terminate()
                process.join()


def _run_task(executor: LocalExecutor, rank: int, place: int, sender: Connection) -> None:
    try:
        result = executor._run_for_rank(rank, place)
    except Exception as error:
        result = _sendable(error)
    sender.send(result)
    sender.close()


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # nosec B301
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _result(receiver: Connection, process: Any, rank: int, logs: str) -> PipelineStats:
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"task {rank} was ended from outside (exit code {process.exitcode}; -9 is what the system does when memory "
            f"runs out: take fewer --workers); logs are in {logs}. The same command goes on"
        ) from None
    process.join()
    if isinstance(result, Exception):
        raise result
    return result
