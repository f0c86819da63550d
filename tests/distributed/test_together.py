"""Ranks that agree on small objects and on failures."""

import torch.distributed as dist

from fairseq_mhmoe.integration.together import of_all_ranks, place, stop_together

from .launcher import python_ranks


def exchange():
    rank, ranks = place()
    return of_all_ranks({"rank": rank, "of": ranks})


def fail_on(failing):
    failure = ValueError("a reason") if dist.get_rank() in failing else None
    try:
        stop_together(failure)
    except (ValueError, OSError) as error:
        return type(error).__name__, str(error)
    return None


def test_everybody_has_everything_in_the_order_of_ranks():
    everything = [{"rank": 0, "of": 2}, {"rank": 1, "of": 2}]
    assert python_ranks(exchange, 2) == [everything, everything]


def test_without_a_failure_nobody_stops():
    assert python_ranks(fail_on, 2, ([],)) == [None, None]


def test_a_failure_of_one_is_that_of_all():
    assert python_ranks(fail_on, 2, ([1],)) == [("OSError", "rank 1: a reason"), ("ValueError", "a reason")]


def test_one_process_agrees_with_itself():
    assert place() == (0, 1) and of_all_ranks("value") == ["value"]
    assert fail_alone() == "a reason"


def fail_alone():
    stop_together(None)
    try:
        stop_together(ValueError("a reason"))
    except ValueError as error:
        return str(error)
