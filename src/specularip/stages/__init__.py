"""The two stages of the method, SEID and SCR, and what they share."""
