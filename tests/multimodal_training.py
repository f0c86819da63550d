"""Options of tiny multimodal trainings: width 24, 2 blocks, the second with 4 experts where there are any."""

from .distributed.launcher import words_of

MULTIMODAL = {
    "user_dir": "fairseq_mhmoe",
    "cpu": True,
    "task": "masked_multimodal",
    "criterion": "masked_multimodal",
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "tokens_per_sample": 32,
    "caption_length": 16,
    "batch_size": 4,
    "text_batch_size": 3,
    "optimizer": "adam",
    "lr": 0.01,
    "num_workers": 0,
    "log_format": "json",
    "log_interval": 1,
    "no_epoch_checkpoints": True,
}
EXPERTS = {"moe_expert_count": 4, "moe_ffn_dim": 16, "moe_freq": 2}


def multimodal_words(data, save_dir, arch="mhmoe_multimodal_tiny", **options):
    """Words of fairseq-train for a tiny multimodal model on the CPU; `max_update` is for the caller to give."""
    experts = {} if arch.startswith("dense") else EXPERTS
    return [str(data), *words_of({**MULTIMODAL, **experts, "arch": arch, "save_dir": save_dir, **options})]
