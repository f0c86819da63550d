"""MH-MoE language models for transformers, in plain PyTorch; logits are those of fairseq_mhmoe in evaluation.

B batch, T new tokens, C tokens in the cache, D width, V vocabulary. There is neither dropout nor balance loss here: to
train a model further, let `mhmoe-checkpoint import` make a checkpoint of it.
"""

import math

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_mhmoe import MHMoEConfig
from .experts_mhmoe import Experts, MoELayer, Router
from .layers_mhmoe import Attention, FeedForward, make_norm, sinusoids, who_may_look


class Block(nn.Module):
    """Attention, then feed-forward network or MoE layer; pre-norm, or post-norm with scaled residuals (DeepNorm)."""

    def __init__(self, config, number):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.residual_scale = (2 * config.num_hidden_layers) ** 0.25 if config.deepnorm else 1.0
        self.self_attn = Attention(config, number)
        self.self_attn_layer_norm = make_norm(config, config.hidden_size)
        self.is_moe = config.has_experts(number)
        if self.is_moe:
            self.moe_layer = MoELayer(config)
        else:
            self.ffn = FeedForward(config)
        self.final_layer_norm = make_norm(config, config.hidden_size)

    def forward(self, x, positions, mask, real, cache, total):
        """[B, T, D] -> [B, T, D]; see Attention and MoELayer."""
        y = self.self_attn(self.self_attn_layer_norm(x) if self.pre_norm else x, positions, mask, cache, total)
        x = torch.add(y, x, alpha=self.residual_scale)
        if not self.pre_norm:
            x = self.self_attn_layer_norm(x)
        y = self.final_layer_norm(x) if self.pre_norm else x
        y = self.moe_layer(y, real) if self.is_moe else self.ffn(y)
        x = torch.add(y, x, alpha=self.residual_scale)
        return x if self.pre_norm else self.final_layer_norm(x)


class MHMoEPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of all classes of the model."""

    config_class = MHMoEConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["router"]

    def _init_weights(self, module):
        super()._init_weights(module)
        for name, parameter in module.named_parameters(recurse=False):
            if getattr(parameter, "_is_hf_initialized", False):
                continue
            if isinstance(module, Experts) and (name.startswith("b_") or name == "norm_bias"):
                nn.init.zeros_(parameter)
            elif isinstance(module, Experts) and name == "norm_weight":
                nn.init.ones_(parameter)
            elif isinstance(module, Router) and name == "log_temperature":
                nn.init.constant_(parameter, math.log(0.3))
            elif isinstance(module, (Experts, Router)):
                nn.init.normal_(parameter, std=self.config.initializer_range)


class MHMoEModel(MHMoEPreTrainedModel):
    """The decoder without output projection."""

    def __init__(self, config):
        super().__init__(config)
        width, self.padding_idx = config.hidden_size, config.pad_token_id
        self.embed_scale = math.sqrt(width) if config.scale_embedding else 1.0
        self.embed_tokens = nn.Embedding(config.vocab_size, width, self.padding_idx)
        self.embed_positions = None
        if config.added_positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width, self.padding_idx)
        self.layernorm_embedding = make_norm(config, width) if config.norm_embedding else None
        self.layers = nn.ModuleList(Block(config, number) for number in range(config.num_hidden_layers))
        self.layer_norm = make_norm(config, width) if config.pre_norm else None
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_hidden_states=None,
        output_attentions=None,
        return_dict=None,
    ):
        """The decoder's output [B, T, D].

        Args:
            input_ids: [B, T] tokens, or inputs_embeds [B, T, D] in their place.
            attention_mask: [B, C + T] 0 where the text is padding, on either side. Without one, pad tokens are
                padding. Positions count what is not padding.
        Raises:
            ValueError: the text is longer than the model takes, or arguments contradict each other.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if output_attentions or self.config.output_attentions:
            raise ValueError("output_attentions: this model does not keep attention weights; leave it out")
        batch, length = (input_ids if inputs_embeds is None else inputs_embeds).shape[:2]
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        start = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        real = self._real_tokens(input_ids, attention_mask, start, batch, length)
        all_real = bool(real.all())
        if inputs_embeds is None:
            pads = ~real[:, start:]
            inputs_embeds = self.embed_tokens(input_ids.masked_fill(pads, self.padding_idx))
        x = self._add_positions(self.embed_scale * inputs_embeds, real, start)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        positions = torch.arange(start, start + length, device=x.device)
        mask = None if all_real and (start == 0 or length == 1) else who_may_look(real, length)
        states = [x]
        for block in self.layers:
            x = block(x, positions, mask, real[:, start:], past_key_values, start + length)
            states.append(x)
        if self.layer_norm is not None:
            x = states[-1] = self.layer_norm(x)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(states) if wanted else None,
        )
        return output.to_tuple() if return_dict is False else output

    def _real_tokens(self, input_ids, attention_mask, start, batch, length):
        """[B, C + T] False where the text is padding."""
        if start + length > self.config.max_position_embeddings:
            raise ValueError(
                f"sequence of {start + length} tokens: this model takes at most {self.config.max_position_embeddings}"
            )
        if attention_mask is None and input_ids is not None and start == 0:
            return input_ids != self.padding_idx
        device = (self.embed_tokens.weight if input_ids is None else input_ids).device
        if attention_mask is None:
            return torch.ones(batch, start + length, dtype=torch.bool, device=device)
        if tuple(attention_mask.shape) != (batch, start + length):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; expected {(batch, start + length)}: "
                "all tokens so far, those in the cache included"
            )
        return attention_mask.to(device).bool()

    def _add_positions(self, x, real, start):
        """[B, T, D] with position embeddings, whose first is that of the first real token; fairseq's numbers."""
        if self.config.added_positions == "none":
            return x
        positions = (real.cumsum(1) * real)[:, start:] + self.padding_idx
        if self.embed_positions is not None:
            return x + self.embed_positions(positions)
        return x + sinusoids(positions, x.shape[-1], self.padding_idx).to(x.dtype)


class MHMoEForCausalLM(MHMoEPreTrainedModel, GenerationMixin):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = MHMoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.output_size, bias=False)
        self.post_init()

    @staticmethod
    def create_masks_for_generate(config, inputs_embeds, attention_mask=None, **unused):
        """`generate` hands masks [B, C + T] on as they are, with static caches too; the model makes its own of them."""
        return attention_mask

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_hidden_states=None,
        output_attentions=None,
        return_dict=None,
        logits_to_keep=0,
        **loss_arguments,
    ):
        """Logits [B, T, V] of the next tokens, and the cross entropy of `labels` [B, T] (shifted here; -100: none).

        Args:
            logits_to_keep: of the last so many tokens only (0: all), or of the positions in a tensor.
            loss_arguments: of transformers' loss function, such as num_items_in_batch.
        For the others see MHMoEModel.
        """
        if loss_arguments and labels is None:
            raise ValueError(f"unknown arguments {', '.join(sorted(loss_arguments))}")
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **loss_arguments)
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
        )
        return result.to_tuple() if return_dict is False else result
