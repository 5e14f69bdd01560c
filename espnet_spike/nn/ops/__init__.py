"""Kernels: each function beside its readable reference, and the choice of a backend.

Here lives arithmetic on tensors without parameters: scans, thresholds, decays, surrogates.
No module with weights lives here, and no configuration.
"""
