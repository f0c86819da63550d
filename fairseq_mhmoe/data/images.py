"""Decoding of pictures, as data preparation does it: what that accepted, training decodes in the same way."""

from data_prep.images.decoding import DEFAULT, SUFFIXES, BadImage, ImageLimits, decode_image

__all__ = ["DEFAULT", "SUFFIXES", "BadImage", "ImageLimits", "decode_image"]
