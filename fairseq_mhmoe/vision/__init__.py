"""Images as codes: visual tokenizers, in pure torch."""
