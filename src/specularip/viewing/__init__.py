"""Showing avatars in a browser: finished ones, and those that grow."""
