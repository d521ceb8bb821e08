"""The files of weights that presets need."""
