"""Baking: view-dependent colours as explicit functions that viewers evaluate without the head."""
