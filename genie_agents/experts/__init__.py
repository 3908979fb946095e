"""Experts that play CoinRun well enough to be imitated: a planner that needs no training, its apprentice, which sees pictures only, and PPO."""
