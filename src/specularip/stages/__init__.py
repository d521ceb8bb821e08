"""The two stages, SEID and SCR, and the run that puts them in order."""
