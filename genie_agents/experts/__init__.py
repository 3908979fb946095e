"""Experts that play CoinRun well enough to be imitated: a planner without training, its apprentice, who knows what the camera shows, and PPO."""
