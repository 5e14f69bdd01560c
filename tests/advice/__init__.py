"""Tests of espnet_spike.advice."""
