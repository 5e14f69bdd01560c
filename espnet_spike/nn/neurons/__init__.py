"""Spiking neurons: IMLS, LIF, I-LIF, ternary; their spike trains; the factory by name.

Here lives what turns real values into spikes and tells how many there were.
No layer with a weight matrix lives here.
"""
