"""Module → kernel spec, or a refusal with its reason."""

from ceconv_convert.read.live import LayerReading, Refusal, is_candidate, is_ours, read_layer
from ceconv_convert.read.sites import Site, find_sites

__all__ = ["LayerReading", "Refusal", "Site", "find_sites", "is_candidate", "is_ours", "read_layer"]
