"""Golden files of whole language models, built through the public model classes (B batch, T length, V vocabulary)."""

import json
from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from checks import CannotCheck, Checker
from fairseq.data import Dictionary
from layers import check_routing, copy_layer, matched
from torch import Tensor

from fairseq_mhmoe.models.decoder import MoEDecoder
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig, validate
from fairseq_mhmoe.moe.selection import select_experts

# Settings of the published program that say how it ran, not what it computed.
IRRELEVANT = {"model_parallel_size", "fp16", "ddp_rank"}
UNSET = -1  # the published program's "as wide as the dense layers", "as many heads"


def check_language_model(file: Checker) -> None:
    """Logits, losses, hidden states, routing; gradients where the file has any."""
    decoder = _build(file)
    loss = _check_forward(file, decoder)
    theirs = file.parameters("grad/param/")
    if theirs:
        loss.backward()
        _check_gradients(file, decoder, theirs)


def check_language_model_gradients(file: Checker) -> None:
    """A file with the gradients of another one's loss, which lies beside it."""
    model = _sibling(file, file.meta["of"])
    decoder = _build(model)
    _check_forward(model, decoder).backward()
    if not model.passed:
        raise CannotCheck(f"{model.path.name}, whose gradients these are, differs")
    _check_gradients(file, decoder, file.parameters("grad/param/"))


def _sibling(file: Checker, name: str) -> Checker:
    path = file.path.with_name(name + ".npz")
    if not path.exists():
        raise CannotCheck(f"needs {path.name} beside it")
    with np.load(path) as data:
        arrays = {n: data[n] for n in data.files}
    return Checker(path, json.loads(str(arrays.pop("meta"))), arrays)


def _build(file: Checker) -> MoEDecoder:
    parameters = file.parameters("param/")
    if "params_from" in file.meta:
        parameters = {**_sibling(file, file.meta["params_from"]).parameters("param/"), **parameters}
    dictionary = Dictionary()
    for i in range(file.meta["vocab"] - len(dictionary)):
        dictionary.add_symbol(f"word{i}")
    if dictionary.pad() != file.meta["pad"]:
        raise CannotCheck(f"pad index {file.meta['pad']}")
    decoder = MoEDecoder(_options(file.meta["args"]), dictionary)
    _copy(decoder, parameters)
    return decoder


def _options(args: Dict[str, Any]) -> MHMoELanguageModelConfig:
    cfg = MHMoELanguageModelConfig(moe_compat="published", add_bos_token=False, tokens_per_sample=64)
    for name, value in args.items():
        if name in IRRELEVANT:
            continue
        if not hasattr(cfg, name):
            raise CannotCheck(f"setting {name}={value!r}")
        setattr(cfg, name, None if value == UNSET and name in ("n_kv_heads", "moe_ffn_dim") else value)
    try:
        validate(cfg)
    except ValueError as error:
        raise CannotCheck(str(error)) from error
    return cfg


def _split_by_layer(names: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], Dict[int, Dict[str, Tensor]]]:
    """Parameters outside and inside MoE layers, the latter by layer, with names relative to it."""
    dense, moe = {}, {}
    for name, value in names.items():
        parts = name.split(".", 3)
        if len(parts) == 4 and parts[2] == "moe_layer":
            moe.setdefault(int(parts[1]), {})[parts[3]] = value
        else:
            dense[name] = value
    return dense, moe


@torch.no_grad()
def _copy(decoder: MoEDecoder, parameters: Dict[str, Tensor]) -> None:
    dense, moe = _split_by_layer(parameters)
    ours = {name: p for name, p in decoder.named_parameters() if ".moe_layer." not in name}
    odd = set(ours) ^ set(dense)
    if odd:
        raise CannotCheck(f"parameters without a counterpart: {', '.join(sorted(odd)[:3])}")
    for name, value in dense.items():
        ours[name].copy_(value)
    for index, values in moe.items():
        copy_layer(decoder.layers[index].moe_layer, values)


def _check_forward(file: Checker, decoder: MoEDecoder) -> Tensor:
    """Compare everything but gradients; returns the loss."""
    decoder.train(file.meta.get("mode", "train") == "train")
    logits_of = {}
    for index, block in enumerate(decoder.layers):
        if block.is_moe:
            block.moe_layer.router.register_forward_hook(lambda _, x, out, i=index: logits_of.update({i: out}))
    check_quantised = _watch_first_linear(file, decoder) if "aux/quant/layers.0.self_attn.in" in file else lambda: None
    logits, extra = decoder(file.tensor("in/tokens"), return_all_hiddens=True)
    check_quantised()
    cross_entropy = F.cross_entropy(
        logits.flatten(0, 1), file.tensor("in/target").flatten(), ignore_index=file.meta["pad"]
    )
    loss = cross_entropy + file.meta["l_aux_weight"] * sum(extra["l_aux"])
    file.output("out/logits", logits)
    file.output("out/ce_loss", cross_entropy)
    file.output("out/loss", loss)
    for index, l_aux in zip(extra["moe_layers"], extra["l_aux"]):
        file.output(f"out/l_aux/layer{index}", l_aux)
        selection = select_experts(logits_of[index], decoder.layers[index].moe_layer.config, decoder.training)
        check_routing(file, f"aux/layer{index}/", selection, final_gates=False)
    for i, hidden in enumerate(extra["inner_states"]):
        if f"aux/hidden{i}" in file:
            file.output(f"aux/hidden{i}", hidden)
    return loss


def _watch_first_linear(file: Checker, decoder: MoEDecoder) -> Callable[[], None]:
    """Watch what goes through the first block's query projection; returns the comparison for after the forward pass."""
    attention, seen = decoder.layers[0].self_attn, {}
    attention.register_forward_pre_hook(lambda _, args: seen.update({"in": args[0]}))
    attention.q_proj.register_forward_hook(lambda _, args, out: seen.update({"in_q": args[0], "q_proj.out": out}))

    def compare() -> None:
        weight = attention.q_proj.weight.detach()
        seen["q_proj.weight_q"] = attention.quantization.matrices(weight, weight.dtype)
        for name, value in seen.items():
            file.output(f"aux/quant/layers.0.self_attn.{name}", value)

    return compare


def _check_gradients(file: Checker, decoder: MoEDecoder, theirs: Dict[str, Tensor]) -> None:
    dense, moe = _split_by_layer(theirs)
    ours = dict(decoder.named_parameters())
    for name in dense:
        file.gradient("grad/param/" + name, ours[name].grad)
    for index, values in moe.items():
        names = {id(value): name for name, value in values.items()}
        for gradient, value in matched(decoder.layers[index].moe_layer, values, gradient=True):
            file.gradient(f"grad/param/layers.{index}.moe_layer.{names[id(value)]}", gradient)
