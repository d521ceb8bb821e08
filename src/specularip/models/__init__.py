"""The weight files that presets need: checking and downloading them."""
