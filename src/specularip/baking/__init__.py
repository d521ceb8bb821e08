"""Highlights as plain numbers for other viewers."""
