"""Weights: blocks, positions, adapters, encoders, decoders, teacher."""
