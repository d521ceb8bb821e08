"""Optimising Gaussians."""
