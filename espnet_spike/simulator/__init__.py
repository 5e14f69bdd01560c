"""Cycles of a trained encoder on a real RISC-V core: lowRISC Ibex, simulated by Verilator.

Needs the extra ``espnet_spike[sim]``. ``hardware`` describes a core, ``toolchain`` finds the
compilers, ``core`` and ``firmware`` build (once), ``machine`` runs kernels and reads the core's own
counters, ``kernels`` has a numpy model of every kernel of ``csrc/*.c``.
"""
