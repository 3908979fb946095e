"""Experts that play CoinRun well enough to be imitated: a planner that needs no training, and PPO."""
