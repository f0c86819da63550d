"""Our options, parameter names and checkpoints in Hugging Face's terms, and back.

The way there is the only conversion: the way back takes the options that a folder keeps and checks that they give the
folder's configuration.
"""

import dataclasses
from typing import Any

import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from fairseq_mhmoe.models.language_model import MHMoELanguageModel
from fairseq_mhmoe.models.options import (
    MHMoELanguageModelConfig,
    kv_heads,
    max_positions,
    moe_config,
    validate,
    with_defaults,
)
from fairseq_mhmoe.moe.parallel import all_experts_here

MODEL_TYPE = "mhmoe_lm"
HEAD = "lm_head.weight", "decoder.output_projection.weight"
BODY = "model.", "decoder."
# What evaluation and fine-tuning ask the task about, beside its data.
TASK_OPTIONS = (
    "add_bos_token",
    "tokens_per_sample",
    "max_target_positions",
    "sample_break_mode",
    "output_dictionary_size",
)
ROUTER = ".moe_layer.router."


def hf_config(cfg: Any, task: Any, vocab_size: int, output_size: int) -> dict[str, Any]:
    """Fields of config.json for a checkpoint's options.

    Args:
        cfg, task: options of the model and of the task, as a checkpoint has them.
        vocab_size, output_size: symbols of the input and of the output.
    Raises:
        ValueError: the forward pass of evaluation draws random numbers, which no other program could repeat.
    """
    moe = moe_config(cfg)
    positions = "learned" if cfg.decoder_learned_pos else "sinusoidal"
    config = dict(
        vocab_size=vocab_size,
        output_size=output_size,
        hidden_size=cfg.decoder_embed_dim,
        intermediate_size=cfg.decoder_ffn_embed_dim,
        num_hidden_layers=cfg.decoder_layers,
        num_attention_heads=cfg.decoder_attention_heads,
        num_key_value_heads=kv_heads(cfg),
        max_position_embeddings=max_positions(cfg),
        hidden_act=str(cfg.activation_fn),
        use_bias=not cfg.no_bias,
        rms_norm=cfg.rms_norm,
        subln=cfg.subln,
        pre_norm=cfg.decoder_normalize_before,
        deepnorm=cfg.deepnorm,
        rotary=cfg.rotary_embed,
        added_positions="none" if cfg.no_token_positional_embeddings else positions,
        scale_embedding=not cfg.no_scale_embedding,
        norm_embedding=cfg.layernorm_embedding,
        tie_word_embeddings=cfg.share_decoder_input_output_embed,
        input_bits=cfg.input_bits,
        weight_bits=cfg.weight_bits,
        moe_freq=cfg.moe_freq,
        pad_token_id=1,
        # what stands before a text: fairseq's programs begin with </s>, or with <s> where it was trained so
        bos_token_id=0 if task.add_bos_token else 2,
        eos_token_id=2,
    )
    if moe is None:
        return config
    if moe.sample_in_eval and moe.second_policy != "all":
        raise ValueError(
            f"--moe-compat torchscale with --moe-second-expert-policy {moe.second_policy} draws experts at random in "
            "evaluation too, so that no two runs agree; such a model can't be exported"
        )
    return config | dict(
        num_experts=moe.num_experts,
        num_experts_per_tok=moe.top_k,
        moe_intermediate_size=moe.ffn_dim,
        moe_heads=moe.heads,
        moe_head_layers=moe.num_head_layers,
        moe_merge_layers=moe.num_merge_layers,
        moe_router=moe.router,
        moe_router_dim=moe.projected_dim,
        moe_normalize_gates=moe.normalize_gates,
        moe_residual=moe.residual,
        shared_expert_intermediate_size=moe.shared_expert_dim,
        moe_capacity_factor=moe.capacity_factor,
        moe_eval_capacity_fraction=moe.eval_capacity_fraction,
        moe_batch_prioritized=moe.batch_prioritized,
        moe_padding=moe.padding,
        moe_quantize_projections=moe.quantize_projections,
    )


def is_limited(config: dict[str, Any]) -> bool:
    """Whether experts take a limited number of tokens in evaluation, so that texts of a batch influence each other."""
    return bool(config.get("moe_capacity_factor")) or config.get("moe_eval_capacity_fraction", -1) > 0


def kept_options(cfg: Any, task: Any) -> dict[str, Any]:
    """The options that config.json keeps under "fairseq", as plain data without paths."""
    names = {item.name for item in dataclasses.fields(MHMoELanguageModelConfig)} - {"_name"}
    model = {name: _plain(cfg[name]) for name in sorted(names) if name in cfg}
    return {"model": model, "task": {name: _plain(task[name]) for name in TASK_OPTIONS if name in task}}


def options_of(kept: Any) -> tuple[Any, dict[str, Any]]:
    """The model's and the task's options out of what `kept_options` gave.

    Raises:
        ValueError: a name or value that is no option, or a model that can't be.
    """
    if not isinstance(kept, dict) or not all(isinstance(kept.get(part), dict) for part in ("model", "task")):
        raise ValueError(
            'config.json has no "fairseq" with the options of model and task; expected a folder of mhmoe-export'
        )
    unknown = sorted(set(kept["task"]) - set(TASK_OPTIONS))
    if unknown:
        raise ValueError(f'config.json: "fairseq" has the task option {unknown[0]!r}; expected {list(TASK_OPTIONS)}')
    structure = OmegaConf.structured(MHMoELanguageModelConfig)
    # these three stand for the task's, which are not there
    given = {"add_bos_token": False, "tokens_per_sample": 512, "max_target_positions": None} | kept["model"]
    try:
        model = OmegaConf.merge(structure, given)
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise ValueError(f'config.json: "fairseq" has a wrong option of the model: {said}') from None
    model = with_defaults(model)
    validate(model)
    return model, kept["task"]


def differing_fields(config: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Fields of config.json that are not what the options kept there give."""
    return [f"{name} {config.get(name)!r} (expected {value!r})" for name, value in expected.items()
            if config.get(name) != value]  # fmt: skip


def to_hf_name(name: str) -> str:
    """Name of a parameter in model.safetensors."""
    return HEAD[0] if name == HEAD[1] else BODY[0] + name.removeprefix(BODY[1])


def to_fairseq_name(name: str) -> str:
    """The inverse of `to_hf_name`."""
    return HEAD[1] if name == HEAD[0] else BODY[1] + name.removeprefix(BODY[0])


def hf_weights(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's parameters under their new names; routers, which compute in float32, stay as they are."""
    return {
        to_hf_name(name): tensor.detach().cpu().to(tensor.dtype if ROUTER in name else dtype).contiguous()
        for name, tensor in weights.items()
    }


def made_up_dictionary(size: int) -> Dictionary:
    """A dictionary of `size` symbols, for a model whose own is not at hand."""
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"symbol{number:08d}")
    return dictionary


def build_model(cfg: Any, vocab_size: int, output_size: int, device: str = "cpu") -> MHMoELanguageModel:
    """The fairseq model of these options in evaluation mode, all experts here; on "meta" names and shapes only."""

    class Task:
        source_dictionary = made_up_dictionary(vocab_size)
        target_dictionary = source_dictionary if output_size == vocab_size else made_up_dictionary(output_size)

    with all_experts_here(), torch.device(device):
        return MHMoELanguageModel.build_model(cfg, Task).eval()


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
