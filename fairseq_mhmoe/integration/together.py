"""What all ranks of a job have to agree on: small objects, exchanged by torch.distributed; one process asks itself."""

import torch.distributed as dist


def place():
    """(rank, number of ranks)."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def of_all_ranks(value):
    """[value of rank 0, value of rank 1, ...]; collective."""
    ranks = place()[1]
    if ranks == 1:
        return [value]
    values = [None] * ranks
    dist.all_gather_object(values, value)
    return values


def stop_together(failure):
    """Raises this rank's failure (an exception or None), or OSError with the first one of another rank; collective."""
    told = of_all_ranks(None if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for rank, message in enumerate(told):
        if message is not None:
            raise OSError(f"rank {rank}: {message}")
