"""Evaluation: counts what the game says, repeats itself with a seed, samples as the policy says."""

import numpy as np
import pytest
import torch

from genie_agents.action_mapping import FrameMapping, LatentToRealMapping
from genie_agents.coinrun import NOOP, NUM_ACTIONS, RIGHT_UP, ProcgenEnv
from genie_agents.evaluation import ClonedAgent, ConstantAgent, RandomAgent, confidence_interval, evaluate
from genie_agents.experts.planner import Planner
from genie_agents.policy import Policy, PolicyConfig

LEVELS = range(900_100, 900_120)
CONFIG = PolicyConfig(num_actions=4, hidden=8)


class PlannedAgent:
    """Plays the planner's plans, made beforehand: an agent that must solve everything."""

    def begin(self, num_games, seed):
        self.plans = []
        for level_seed in LEVELS:
            env = ProcgenEnv()
            env.reset(options={"level_seed": level_seed})
            self.plans.append(iter(Planner().plan(env.get_state().simulator)))
        assert num_games == len(self.plans)

    def act(self, obs, games):
        return np.array([next(self.plans[game]) for game in games])


def test_a_perfect_agent_solves_all_and_an_idle_one_none():
    assert evaluate(PlannedAgent(), LEVELS, difficulty="easy", seed=0).solved.all()
    idle = evaluate(ConstantAgent(NOOP), LEVELS[:3], difficulty="easy", seed=0)
    assert not idle.solved.any() and (idle.steps == 1000).all()


def test_a_game_is_played_to_its_own_limit():
    assert evaluate(ConstantAgent(NOOP), [2], difficulty="easy", seed=0, game="bossfight").steps.tolist() == [4000]


def test_constant_right_up_solves_about_two_thirds_of_easy_and_random_far_less():
    levels = range(900_000, 900_100)
    constant = evaluate(ConstantAgent(RIGHT_UP), levels, difficulty="easy", seed=0).solved.mean()
    chance = evaluate(RandomAgent(), levels, difficulty="easy", seed=0, max_steps=300).solved.mean()
    assert 0.5 < constant < 0.8 and chance < constant - 0.15


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match="level_seeds is empty"):
        evaluate(RandomAgent(), [], difficulty="easy", seed=0)


def test_same_seed_same_play():
    agents = [ClonedAgent(Policy(CONFIG), LatentToRealMapping([np.array([7, 8])] * 4)) for _ in range(2)]
    agents[1].policy.load_state_dict(agents[0].policy.state_dict())
    first, second, other = (
        evaluate(agent, LEVELS[:6], difficulty="easy", seed=seed, max_steps=80)
        for agent, seed in zip([*agents, agents[0]], (1, 1, 2), strict=True)
    )
    np.testing.assert_array_equal(first.steps, second.steps)
    np.testing.assert_array_equal(first.solved, second.solved)
    assert (first.steps != other.steps).any()


def test_samples_from_the_softmax_at_the_given_temperature():
    policy, logits = Policy(PolicyConfig(num_actions=NUM_ACTIONS, hidden=8)), torch.full((NUM_ACTIONS,), -30.0)
    logits[:3] = torch.tensor([0.0, 1.0, 2.0])
    with torch.no_grad():
        policy.network.head[-1].weight.zero_()
        policy.network.head[-1].bias.copy_(logits)
    obs, games = np.zeros((4000, 64, 64, 3), np.uint8), np.arange(4000)
    for temperature in (1.0, 3.0):
        agent = ClonedAgent(policy, temperature=temperature)
        agent.begin(4000, seed=0)
        shares = np.bincount(agent.act(obs, games), minlength=NUM_ACTIONS) / 4000
        expected = torch.softmax(logits / temperature, 0).numpy()
        np.testing.assert_allclose(shares, expected, atol=0.03)
    greedy = ClonedAgent(policy, temperature=0)
    greedy.begin(4000, seed=0)
    assert (greedy.act(obs, games) == 2).all()
    with pytest.raises(ValueError, match="temperature"):
        ClonedAgent(policy, temperature=-1)


def test_latent_actions_need_a_mapping():
    with pytest.raises(ValueError, match="4 latent actions: give the mapping"):
        ClonedAgent(Policy(CONFIG))
    with pytest.raises(ValueError, match="among 4 latent actions and the mapping names keys of 3"):
        ClonedAgent(Policy(CONFIG), LatentToRealMapping([np.array([7, 8])] * 3))


def test_an_agent_remembers_each_games_own_past():
    policy, seen = Policy(PolicyConfig(num_actions=NUM_ACTIONS, hidden=8, num_frames=3)), []
    forward = policy.forward
    policy.forward = lambda frames, previous: (seen.append((frames.clone(), previous.clone())), forward(frames, previous))[1]
    agent = ClonedAgent(policy)
    agent.begin(3, seed=0)
    obs = [np.full((3, 64, 64, 3), value, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None] for value in (10, 20, 30)]
    first = agent.act(obs[0], np.arange(3))
    agent.act(obs[1][[0, 2]], np.array([0, 2]))  # game 1 has ended
    agent.act(obs[2][[2]], np.array([2]))
    assert seen[0][0][:, :, 0, 0, 0].tolist() == [[10, 10, 10], [11, 11, 11], [12, 12, 12]]
    assert seen[0][1].tolist() == [[-1, -1, -1]] * 3
    assert seen[1][0][:, :, 0, 0, 0].tolist() == [[10, 10, 20], [12, 12, 22]]
    assert seen[1][1][:, -1].tolist() == [first[0], first[2]]
    assert seen[2][0][:, :, 0, 0, 0].tolist() == [[12, 22, 32]]


def test_a_mapping_that_looks_further_back_than_the_policy_is_shown_as_many_frames():
    class Watcher(FrameMapping):
        num_frames, num_codes = 4, 3

        def __init__(self):
            self.seen = []

        def sample(self, latent_actions, frames, generator, *, temperature=1.0):
            self.seen.append(frames[:, :, 0, 0, 0].tolist())
            return latent_actions

    agent = ClonedAgent(Policy(PolicyConfig(num_actions=3, hidden=8)), watcher := Watcher())
    agent.begin(1, seed=0)
    for value in (1, 2, 3):
        agent.act(np.full((1, 64, 64, 3), value, np.uint8), np.arange(1))
    assert watcher.seen == [[[1, 1, 1, 1]], [[1, 1, 1, 2]], [[1, 1, 2, 3]]]


def test_confidence_interval_is_students():
    low, high = confidence_interval([80, 84, 82, 86, 78])
    assert (low, high) == pytest.approx((82 - 2.776 * 1.41421, 82 + 2.776 * 1.41421), abs=0.01)
    assert np.isnan(confidence_interval([80])).all()
    assert confidence_interval([80, 80]) == (80, 80)
