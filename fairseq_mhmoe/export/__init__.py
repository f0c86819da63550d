"""Checkpoints as Hugging Face folders, and back.

`modeling_mhmoe.py`, `configuration_mhmoe.py` and `tokenization_mhmoe.py` are copied into the folders: they know torch
and transformers only.
"""
