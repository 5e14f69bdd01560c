"""Kernels for CUDA GPUs in Triton, one module for each operation of ``nn.ops``.

A module here takes tensors and numbers and gives tensors; it knows no network and no reference.
``nn.ops.backends`` alone imports these modules, on first use, and the references beside it say what
is computed. Every sum runs in a fixed order, without atomics, so runs are equal to the bit.
"""
