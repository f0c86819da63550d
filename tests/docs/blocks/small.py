"""How a command of the documents is made small enough to run here: one table, words of the real programs.

A document's own words go to the real program, in their order; its parser sees them all. Behind them come those of
SIZES, which win because they are the last. "..." in a document stands for OMITTED, which come first and so lose.
"""

LANGUAGE_MODEL = (
    "--decoder-embed-dim 24 --decoder-ffn-embed-dim 32 --decoder-layers 2 --decoder-attention-heads 2 "
    "--tokens-per-sample 64"
)
MULTIMODAL_MODEL = (
    "--encoder-embed-dim 24 --encoder-ffn-embed-dim 32 --encoder-layers 2 --encoder-attention-heads 2 "
    "--patch-size 8 --image-size 32"
)
TRAINING = "--cpu --max-update 2 --batch-size 2 --num-workers 0 --log-interval 1 --required-batch-size-multiple 1"
PRETRAINING = "--tokens-per-sample 32 --caption-length 16"
HYDRA = (
    "common.cpu=true dataset.batch_size=2 dataset.num_workers=0 optimization.max_update=2 task.tokens_per_sample=64 "
    "common.log_interval=1 optimization.update_freq=[1]"
)
HYDRA_LANGUAGE = (
    "model.decoder_layers=2 model.decoder_embed_dim=24 model.decoder_ffn_embed_dim=32 model.decoder_attention_heads=2"
)
# the names that the document gives are looked up (checking.py); the one task that is asked has its records here
LM_EVAL = "--limit 2 --device cpu --tasks piqa --local-data data/zero-shot"

# Words that always follow those of the document.
SIZES = {
    "fairseq-train gpt": f"{TRAINING} {LANGUAGE_MODEL}",
    "fairseq-train language_modeling": f"{TRAINING} {LANGUAGE_MODEL}",
    "fairseq-train masked_multimodal": f"{TRAINING} {MULTIMODAL_MODEL} {PRETRAINING}",
    "fairseq-train vqa": f"{TRAINING} {MULTIMODAL_MODEL}",
    "fairseq-train nlvr2": f"{TRAINING} {MULTIMODAL_MODEL}",
    "fairseq-train captioning": f"{TRAINING} {MULTIMODAL_MODEL}",
    "fairseq-train experts": "--moe-ffn-dim 16",
    "fairseq-validate": "--cpu --num-workers 0 --batch-size 8",
    "fairseq-eval-lm": "--cpu --num-workers 0 --tokens-per-sample 64 --batch-size 8",
    "fairseq-interactive": "--cpu --max-len-b 5",
    "fairseq-generate": "--cpu --num-workers 0 --batch-size 8",
    "fairseq_mhmoe.cli.evaluate": "--cpu --num-workers 0 --tokens-per-sample 64 --batch-size 8",
    "hydra": HYDRA,
    "hydra language": HYDRA_LANGUAGE,
    "hydra experts": "model.moe_ffn_dim=16",
    "data_prep": "--workers 1 --min-chars 20 --valid-share 0.1 --test-share 0.1",
    "data_prep vocabulary": "--vocab-size 400",
    "data_prep.images": "--workers 1 --valid-share 0.2 --test-share 0.2",
    "fairseq_mhmoe.cli.evaluate_multimodal": "--split valid",  # all that the folder here has
    "mhmoe-lm-eval": LM_EVAL,
    "fairseq_mhmoe.cli.lm_eval": LM_EVAL,
    "fairseq_mhmoe.cli.train_image_tokenizer": "--image-size 16 --codes 5 --width 8 --steps 2 --batch-size 2",
    "fairseq_mhmoe.cli.image_codes": "--num-workers 0 --image-size 32",
    "mhmoe-analyze activation": "--max-tokens 2000",
    "mhmoe-analyze diversity": "",
}

# Words that follow only where the document names the option (with this value), with a size that is too large for here.
SIZES_OF_NAMED = {
    "fairseq-train": {
        "--moe-ffn-dim": "16",
        "--update-freq": "1",
        "--warmup-updates": "1",
        "--total-num-update": "100",
        "--image-batch-size": "2",
        "--text-batch-size": "2",
        "--max-tokens": "256",
    },
    "data_prep": {
        "--vocab-size 32000": "320",
        "--vocab-size 64000": "320",
        "--tokenizer cl100k_base": "data/text/spm.model",
    },
}

# What "..." in a document stands for.
OMITTED = {
    "fairseq-train": "--user-dir fairseq_mhmoe --optimizer adam --lr 0.01",
    "fairseq-train gpt": "--task gpt --arch mhmoe_lm_tiny --criterion moe_cross_entropy --save-dir runs/omitted/gpt",
    "fairseq-train masked_multimodal": "--save-dir runs/omitted/multimodal",
    "fairseq-train vqa": "--arch mhmoe_multimodal_base --ddp-backend legacy_ddp --save-dir runs/omitted/vqa",
    "data_prep": "--output data/omitted --source a=dumps/enwiki-*.bz2 --vocab-size 320",
}


def value(words: list[str], option: str, default: str = "") -> str:
    """The value that a parser would take: that of the last mention."""
    for number in range(len(words) - 1, -1, -1):
        if words[number].startswith(f"{option}="):
            return words[number].partition("=")[2]
        if words[number] == option and number + 1 < len(words):
            return words[number + 1]
    return default


def keys(program: str, words: list[str]) -> list[str]:
    """Where the tables tell of such a command, the general first."""
    if program == "fairseq-train":
        dense = value(words, "--arch", "mhmoe").startswith(("dense", "gpt"))
        return [program, f"{program} {value(words, '--task', 'gpt')}", *([] if dense else [f"{program} experts"])]
    if program.endswith(("hydra-train", "hydra_train")):
        name = value(words, "--config-name")
        kind = "multimodal" if "multimodal" in name else "language"
        return ["hydra", f"hydra {kind}", *(["hydra experts"] if "dense" not in name else [])]
    if program == "mhmoe-analyze":
        return [program, f"{program} {words[0] if words else ''}"]
    if program == "data_prep" and not {"--vocab-size", "--tokenizer"} & set(words):
        return [program, "data_prep vocabulary"]
    return [program]


# Options, each with a value, that need what is not installed with the tests.
LEFT_OUT = ("--wandb-project",)


def shrink(program: str, words: list[str]) -> list[str]:
    """A document's words, completed and made small. SystemExit for "..." where no table says what it stands for."""
    for option in LEFT_OUT:
        while option in words:
            at = words.index(option)
            words = [*words[:at], *words[at + 2 :]]
    named = keys(program, words)
    if "..." in words:
        omitted = " ".join(OMITTED.get(key, "") for key in named).split()
        if not omitted:
            raise SystemExit(
                f"{program}: '...' stands for nothing that is known; see OMITTED in tests/docs/blocks/small.py"
            )
        at = 1 if words[0] != "..." and not words[0].startswith("-") else 0
        words = [*words[:at], *omitted, *(word for word in words[at:] if word != "...")]
        named = keys(program, words)
    small = []
    for key in named:
        for option, size in SIZES_OF_NAMED.get(key, {}).items():
            name, _, wanted = option.partition(" ")
            if any(word.partition("=")[0] == name for word in words) and wanted in ("", value(words, name)):
                small += [name, size]
        small += SIZES.get(key, "").split()
    return [*words, *small]
