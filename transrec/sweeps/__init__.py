"""Sweeps: many runs planned from one file, carried out on Ray, analysed and reported."""
