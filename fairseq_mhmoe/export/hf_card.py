"""README.md and LICENSE of a Hugging Face folder: what the model is, how it is loaded, what may be done with it."""

from typing import Any

import fairseq_mhmoe
from fairseq_mhmoe.export.hf_model import is_limited
from fairseq_mhmoe.export.source import Source
from fairseq_mhmoe.models.options import lm_shape, moe_config
from fairseq_mhmoe.moe.cost import model_cost

MIT = """MIT License

Copyright (c) the fairseq_mhmoe authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
LICENSE = (
    "The files *.py in this folder are code of fairseq_mhmoe, under the licence below.\n"
    "It says nothing about the weights (*.safetensors) and the tokenizer: whoever\n"
    "trained them decides, within what the licences of the training data allow.\n\n" + MIT
)
ROUTERS = {"softmax": "softmax", "xmoe": "cosine with temperature (X-MoE)", "torchscale-cosine": "cosine (torchscale)"}


def model_card(source: Source, config: dict[str, Any], dtype: str) -> str:
    """README.md of the folder.

    Args:
        config: fields of config.json.
        dtype: of the weights, such as "float32".
    """
    rows = _sizes(source, config) | {"precision of the weights": dtype, "trained for": f"{source.updates:,} updates"}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    parts = [
        _header(source.manifest),
        f"# {_kind(config)} language model\n\n"
        f"Trained with fairseq_mhmoe {fairseq_mhmoe.__version__} on fairseq, written by `mhmoe-export`.\n\n"
        f"| | |\n|---|---|\n{table}",
        _loading(source),
        _notes(config),
        _data(source.manifest),
        "## Licence\n\nThe modelling code (`*.py`) is under the MIT licence, see `LICENSE`. The licence of the weights "
        "is for their owner to state here.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(manifest: dict | None) -> str:
    languages = sorted({each.get("language") for each in (manifest or {}).get("sources", {}).values()} - {None})
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [mixture-of-experts, mh-moe]"]
    # quoted: YAML takes the language "no" for false
    lines += ["language: [" + ", ".join(f'"{name}"' for name in languages) + "]"] if languages else []
    return "\n".join([*lines, "---"])


def _kind(config: dict[str, Any]) -> str:
    if not config["moe_freq"]:
        return "Dense"
    if config["moe_heads"] > 1:
        return "Multi-Head Mixture-of-Experts"
    return "Sparse Mixture-of-Experts" if config["moe_router"] == "softmax" else "X-MoE"


def _sizes(source: Source, config: dict[str, Any]) -> dict[str, str]:
    cost = model_cost(lm_shape(source.cfg, config["vocab_size"], config["max_position_embeddings"]))
    kv_heads, heads = config["num_key_value_heads"], config["num_attention_heads"]
    positions = ["rotary"] if config["rotary"] else []
    positions += [config["added_positions"]] if config["added_positions"] != "none" else []
    rows = {
        "parameters": f"{sum(parameter.numel() for parameter in source.model.parameters()):,}",
        "parameters that a token passes": f"{cost.params_activated:,}",
        "blocks, width": f"{config['num_hidden_layers']}, {config['hidden_size']}",
        "attention heads": f"{heads}" + (f", {kv_heads} for keys and values" if kv_heads < heads else ""),
        "vocabulary": f"{config['vocab_size']:,}",
        "longest text": f"{config['max_position_embeddings']:,} tokens",
        "activation": "SwiGLU" if config["hidden_act"] == "silu" else config["hidden_act"],
        "norm": "RMSNorm" if config["rms_norm"] else "LayerNorm",
        "positions": " and ".join(positions) or "none",
    }
    moe = moe_config(source.cfg)
    if moe is not None:
        rows |= {
            "MoE layers": f"every block of {config['moe_freq']}",
            "experts": f"{moe.num_experts} of inner width {moe.ffn_dim}, {moe.top_k} chosen",
            "sub-tokens of a token": f"{moe.heads}",
            "router": ROUTERS[moe.router],
        }
        if moe.shared_expert_dim:
            rows["shared expert"] = f"inner width {moe.shared_expert_dim}"
    if config["input_bits"] == 8 or config["weight_bits"] == 1:
        rows["BitNet b1.58"] = f"inputs {config['input_bits']} bits, weights {config['weight_bits']} bits"
    return rows


def _loading(source: Source) -> str:
    load = 'model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)'
    if source.tokenizer is None:
        use = (
            "```python\nimport torch\nfrom transformers import AutoModelForCausalLM\n\n"
            f"{load}\n# token numbers of fairseq's dictionary; model.config.bos_token_id begins a text\n"
            "tokens = torch.tensor([[model.config.bos_token_id]])\n"
            "print(model.generate(tokens, max_new_tokens=40))\n```\n\n"
            "There is no tokenizer: the model was exported without its data folder."
        )
    else:
        package = "sentencepiece" if source.tokenizer[0] == "spm.model" else "tiktoken"
        use = (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"{load}\n"
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)\n'
            'inputs = tokenizer("The history of", return_tensors="pt")\n'
            "tokens = model.generate(**inputs, max_new_tokens=40)\n"
            "print(tokenizer.decode(tokens[0], skip_special_tokens=True))\n```\n\n"
            "The tokenizer puts in front of a text what stood before each document in training, and takes what looks "
            f"like a special token (`</s>`) for ordinary text. It needs `pip install {package}`."
        )
    return (
        "## How to use it\n\n"
        f"{use}\n\n`trust_remote_code=True` runs the files `*.py` of this folder: read them first. "
        "They need torch and transformers 5."
    )


def _notes(config: dict[str, Any]) -> str:
    notes = ["Logits are those of fairseq in evaluation. There is no dropout, and no balance loss for training."]
    if is_limited(config):
        notes.append(
            "Experts take a limited number of tokens of a batch, as in evaluation with fairseq: the logits of a text "
            "depend on the others in its batch, and on how many tokens are processed at once. Give texts one by one "
            "to compare them."
        )
    if config["input_bits"] == 8 or config["weight_bits"] == 1:
        notes.append(
            "Quantised numbers are rounded: a difference in the last digit (another device, another batch) may move "
            "an input to the next of its 255 levels."
        )
    return "## Good to know\n\n" + "\n\n".join(notes)


def _data(manifest: dict | None) -> str:
    sources = (manifest or {}).get("sources", {})
    lines = [
        f"- {name}: {each.get('license') or 'licence not stated'}. {each.get('attribution') or ''}".rstrip()
        for name, each in sources.items()
    ]
    return "## Training data\n\n" + "\n".join(lines) if lines else ""
