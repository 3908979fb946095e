"""Experts that play CoinRun well enough to be imitated: an untrained planner, its apprentice, who knows what the camera shows, and PPO."""
