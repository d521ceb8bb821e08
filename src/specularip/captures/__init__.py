"""Captures: folders of images with known cameras."""
