"""The stages of `generate`, SEID and SCR: settings, views, guidance, photo anchor, perceptual loss."""
