"""Golden files of one layer or one gate (S sub-tokens, N experts, K choices)."""

from typing import Any, Dict

import torch
from checks import CannotCheck, Checker
from torch import Tensor

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.layer import project, split_heads
from fairseq_mhmoe.moe.losses import load_balancing_loss
from fairseq_mhmoe.moe.selection import Selection, select_experts

ACTIVATIONS = {"silu": "swiglu", "gelu": "gelu", "relu": "relu"}
AUX_WEIGHT = 0.01


def activation_of(name: str) -> str:
    """Ours for "silu (SwiGLU: ...)" is "swiglu"."""
    word = str(name).split()[0]
    if word not in ACTIVATIONS:
        raise CannotCheck(f"activation {name!r}")
    return ACTIVATIONS[word]


def copy_layer(layer: MoELayer, theirs: Dict[str, Tensor]) -> None:
    """Load a published or torchscale MoE layer's parameters (names relative to the layer) into ours."""
    with torch.no_grad():
        for ours, value in matched(layer, theirs, gradient=False):
            ours.copy_(value)


def matched(layer: MoELayer, theirs: Dict[str, Tensor], gradient: bool):
    """Pairs of (our parameter or its gradient, their value) that cover all of theirs."""
    experts, left = layer.experts, dict(theirs)

    def pick(tensor):
        return tensor.grad if gradient else tensor

    def pair(tensor, name):
        if name in left:
            yield pick(tensor), left.pop(name)

    yield from pair(getattr(layer.router, "weight", None), "gate.wg.weight")
    yield from pair(getattr(layer.router, "embedding", None), "gate.wg")
    if "gate.wg_reduction.weight" in left:
        yield from pair(layer.router.projection.weight, "gate.wg_reduction.weight")
    for modules, name in ((layer.head, "multi_heads"), (layer.merge, "out_proj")):
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in left:
                yield from pair(getattr(modules[0], kind), f"{name}.{kind}")
    width = experts.ffn_dim
    for e in range(experts.num_experts):
        for kind, w_in, w_out in (("weight", experts.w_in, experts.w_out), ("bias", experts.b_in, experts.b_out)):
            if f"experts.{e}.fc1.{kind}" not in left:
                continue
            up = pick(w_in)[e][width:] if experts.activation == "swiglu" else pick(w_in)[e]
            yield up, left.pop(f"experts.{e}.fc1.{kind}")
            if experts.activation == "swiglu":
                yield pick(w_in)[e][:width], left.pop(f"experts.{e}.fc3.{kind}")
            yield pick(w_out)[e], left.pop(f"experts.{e}.fc2.{kind}")
        for kind, tensor in (("weight", experts.norm_weight), ("bias", experts.norm_bias)):
            if f"experts.{e}.ffn_layernorm.{kind}" in left:
                yield pick(tensor)[e], left.pop(f"experts.{e}.ffn_layernorm.{kind}")
    if left:
        raise CannotCheck(f"parameters without a counterpart: {', '.join(sorted(left)[:3])}")


def layer_config(meta: Dict[str, Any], parameters: Dict[str, Tensor]) -> MoEConfig:
    """Our configuration for a layer file's settings."""
    torchscale = meta["kind"].startswith("torchscale")
    normalize = bool(meta["normalize_gate_prob_before_dropping"])
    fields = dict(
        d_model=meta["d_model"],
        num_experts=meta["num_experts"],
        ffn_dim=meta["d_ff"] if torchscale else meta["moe_ffn_dim"],
        top_k=meta["top_k"],
        heads=meta.get("heads", 1),
        activation=activation_of(meta["activation"]),
        bias=bool(meta["bias"]),
        subln=bool(meta["subln"]),
        rms_norm="experts.0.ffn_layernorm.bias" not in parameters,
        router="xmoe" if meta["use_xmoe"] else "softmax",
        normalize_gates="before" if normalize else "none",
        eval_capacity_fraction=meta["moe_eval_capacity_token_fraction"],
        batch_prioritized=bool(meta["batch_prioritized_routing"]),
        input_bits=meta.get("input_bits", 32),
        weight_bits=meta.get("weight_bits", 32),
    )
    if torchscale and meta["top_k"] == 1:
        fields.update(capacity_factor=float(meta["capacity_factor"]), normalize_gates="none")
    if torchscale and meta["top_k"] == 2:
        fields["second_policy"] = meta["second_expert_policy"]
    if "gate.wg_reduction.weight" in parameters:
        fields["router_dim"] = parameters["gate.wg_reduction.weight"].shape[0]
    try:
        return MoEConfig.with_compat("torchscale" if torchscale else "published", **fields)
    except ValueError as error:
        raise CannotCheck(str(error)) from error


def check_layer(file: Checker) -> None:
    """A MoE layer: outputs, routing, gradients of sum(y * r) + weight * l_aux."""
    meta, parameters = file.meta, file.parameters("param/moe_layer.")
    layer = MoELayer(layer_config(meta, parameters))
    copy_layer(layer, parameters)
    layer.train(meta["mode"] == "train")
    x = file.tensor("in/x").requires_grad_()
    pads = file.tensor("in/padding_mask") if meta["padding_mask_given"] else None
    noise = None
    if "in/gumbel_noise" in file:
        noise = file.tensor("in/gumbel_noise")
    elif "in/rand_uniform" in file:
        noise = file.tensor("in/rand_uniform").unsqueeze(1)

    y, l_aux, _, _ = layer(x, pads, noise)
    loss = (y * file.tensor("in/r")).sum() + meta.get("aux_weight_in_loss", AUX_WEIGHT) * l_aux
    loss.backward()
    file.output("out/y", y)
    file.output("out/l_aux", l_aux)
    file.output("out/loss", loss)
    if "grad/in/x" in file:
        file.gradient("grad/in/x", x.grad)
    for name, value in file.parameters("after/moe_layer.").items():
        file.output(f"after/moe_layer.{name}", layer.router.rescaled_embedding().view_as(value))
    gradients = file.parameters("grad/param/moe_layer.")
    if gradients:
        check_gradients(file, layer, "grad/param/moe_layer.")

    sub = split_heads(project(x, layer.head), layer.config.heads)
    logits = layer.router(sub)
    selection = select_experts(logits, layer.config, layer.training, layer.valid_sub_tokens(pads), noise)
    if "aux/sub_tokens" in file:
        file.output("aux/sub_tokens", sub)
    file.output("aux/logits", logits)
    check_routing(file, "aux/", selection, final_gates=meta["kind"].startswith("torchscale"))


def check_gradients(file: Checker, layer: MoELayer, prefix: str) -> None:
    """All parameter gradients of a layer below `prefix`."""
    theirs = file.parameters(prefix)
    names = {id(value): name for name, value in theirs.items()}
    for ours, value in matched(layer, theirs, gradient=True):
        file.gradient(prefix + names[id(value)], ours)


def check_routing(file: Checker, prefix: str, selection: Selection, final_gates: bool) -> None:
    """Experts, queue places, kept choices, gates; all [K, S] in the file."""
    kept = selection.experts < selection.probs.shape[1]
    file.exact(prefix + "expert_index", selection.choices.t())
    file.exact(prefix + "kept", kept.t())
    if prefix + "probs" in file:
        file.output(prefix + "probs", selection.probs)
    theirs = file.tensor(prefix + "gate").t()
    if final_gates:
        file.exact(prefix + "location", selection.locations.masked_fill(~kept, -1).t())
        file.output(prefix + "gate", selection.gates.t())
        if prefix + "sampled" in file:
            wanted = selection.wanted < selection.probs.shape[1]
            pads = ~wanted[:, :1]  # ours leave pads out here, theirs later
            file.exact(prefix + "sampled", torch.where(pads, file.tensor(prefix + "sampled").t(), wanted).t())
    else:
        file.exact(prefix + "location", selection.locations.t())
        # theirs are the gates before the capacity mask, ours after it
        file.output(prefix + "gate", torch.where(kept, selection.gates, theirs).t())


def check_gate(file: Checker) -> None:
    """A published gate alone, without capacity in its loss."""
    meta = file.meta
    cosine = "param/gate.wg" in file
    fields = dict(
        d_model=meta["d"],
        num_experts=meta["num_experts"],
        ffn_dim=8,
        top_k=meta["top_k"],
        router="torchscale-cosine" if cosine else "softmax",
        router_dim=meta.get("reduction_dim"),
        normalize_gates="before" if meta["normalize_gate_prob_before_dropping"] else "none",
        eval_capacity_fraction=meta["moe_eval_capacity_token_fraction"],
    )
    config = MoEConfig.with_compat("published", **fields)
    router = MoELayer(config).router
    parameters = dict(
        zip(
            ["embedding", "projection.weight"] if cosine else ["weight"],
            ["gate.wg", "gate.wg_reduction.weight"] if cosine else ["gate.wg.weight"],
        )
    )
    router.load_state_dict({ours: file.tensor("param/" + theirs) for ours, theirs in parameters.items()})
    training = meta["mode"] == "train"
    x = file.tensor("in/x").requires_grad_()
    logits = router(x)
    selection = select_experts(logits, config, training)
    dropless = dict(fields, eval_capacity_fraction=-1.0)
    before_mask = select_experts(logits, MoEConfig(**dropless), training).gates.t()
    l_aux = load_balancing_loss(selection.probs, selection.choices[:, 0])
    loss = (before_mask * file.tensor("in/r")).sum() + AUX_WEIGHT * l_aux
    loss.backward()
    file.output("out/gate", before_mask)
    file.output("out/l_aux", l_aux)
    file.output("out/loss", loss)
    entropy = -torch.special.xlogy(selection.probs, selection.probs).sum(1).mean()
    file.output("out/entropy_gating", entropy)
    if cosine:
        file.output("after/gate.wg", router.rescaled_embedding())
    file.output("aux/logits", logits)
    file.output("aux/probs", selection.probs)
    file.exact("aux/expert_index", selection.choices.t())
    file.exact("aux/location", selection.locations.t())
    file.exact("aux/kept", (selection.experts < meta["num_experts"]).t())
    file.gradient("grad/in/x", x.grad)
    for ours, theirs in parameters.items():
        file.gradient("grad/param/" + theirs, router.get_parameter(ours).grad)
