"""One pass over a parameter in Adam's step instead of seven; fairseq 0.12.3.1 without apex.

fairseq's own Adam updates one parameter after the other with single operations, each a pass over its memory and, on a
GPU, a kernel. torch has the whole update as one kernel for all parameters. What differs is the place of epsilon: it is
added before the bias correction of the second moment in fairseq, after it in torch, so it is scaled here. The state
stays fairseq's.
"""

import math
from collections import defaultdict

import torch
from fairseq.optim import adam

from fairseq_mhmoe.integration.hooks import wrap


def install():
    """Installs the hook of this file."""
    wrap(adam.Adam, "step", step_in_one_pass)


def step_in_one_pass(original, self, closure=None):
    """One update of all parameters; half-precision and sparse ones are left to the original."""
    if not all(map(fits, parameters_with_gradients(self))):
        return original(self, closure)
    loss = None if closure is None else closure()
    for group in self.param_groups:
        group.setdefault("amsgrad", False)  # as the original understands groups of old checkpoints
        by_step = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_step[prepare(self.state[parameter], parameter, group["amsgrad"]), parameter.device].append(parameter)
        for (step, device), parameters in by_step.items():
            update(self.state, group, parameters, step, device)
    return loss


def parameters_with_gradients(optimizer):
    """Those that a step changes."""
    for group in optimizer.param_groups:
        yield from (p for p in group["params"] if p.grad is not None)


def fits(parameter):
    """Whether torch's kernel takes it."""
    grad = parameter.grad
    return parameter.dtype == grad.dtype == torch.float32 and not grad.is_sparse and grad.device.type in ("cpu", "cuda")


def prepare(state, parameter, amsgrad):
    """Fairseq's state of one parameter, made or moved to it; returns the number of this step."""
    moments = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * amsgrad
    state.setdefault("step", 0)
    for name in moments:
        state[name] = state[name].to(parameter) if name in state else torch.zeros_like(parameter)
    state["step"] += 1
    return state["step"]


@torch.no_grad()
def update(states, group, parameters, step, device):
    """Adam with decoupled weight decay for parameters that are all at the same step."""
    beta1, beta2 = group["betas"]
    amsgrad = group["amsgrad"]
    states = [states[parameter] for parameter in parameters]
    torch._fused_adamw_(
        parameters,
        [parameter.grad for parameter in parameters],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if amsgrad else [],
        [torch.full((), step, dtype=torch.float32, device=device)] * len(parameters),
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"] / math.sqrt(1 - beta2**step),
        amsgrad=amsgrad,
        maximize=False,
    )
