"""What a trained language model is worth: perplexity with its uncertainty, bits per byte, experts in use."""
