"""Kaldi and feature directories, audio, filter banks, tokens and text (stages 2 to 5).

Here lives what reads, checks and writes data on disk, with numpy alone.
No network and no corpus by name lives here; torch is not imported.
"""
