"""Experts that play CoinRun well enough to be imitated: an untrained planner, one that sees what the camera shows, and PPO."""
