"""Images as codes: visual tokenizers, in pure torch."""

from fairseq_mhmoe.vision.files import load_tokenizer, save_tokenizer
from fairseq_mhmoe.vision.tokenizer import VisualTokenizer
from fairseq_mhmoe.vision.vqvae import PatchVQ, PatchVQConfig

__all__ = ["PatchVQ", "PatchVQConfig", "VisualTokenizer", "load_tokenizer", "save_tokenizer"]
