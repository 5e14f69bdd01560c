"""Layers with weights: spiking linear and convolution, attention, Mamba, FATReLU, subsampling.

Here lives what one block is composed of.
Blocks, encoders and their options in the YAML live in ``encoders``.
"""
