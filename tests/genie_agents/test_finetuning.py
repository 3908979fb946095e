"""PPO starts from what was cloned, improves it, and goes on where it was cut."""

from functools import partial

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from genie_agents.action_mapping import LatentToRealMapping
from genie_agents.coinrun import NUM_ACTIONS, RIGHT, RIGHT_UP
from genie_agents.evaluation import evaluate
from genie_agents.experts.players import PPO_CHECKPOINT, identify_expert, make_expert
from genie_agents.finetuning import CHANCE_OF_UNSEEN, FinetunedAgent, LatentHead, finetune
from genie_agents.policy import Policy, PolicyConfig

SMALL = {"num_envs": 2, "steps_per_rollout": 8}
NATURE = PolicyConfig(num_actions=2, architecture="nature", hidden=16)
IMPALA = PolicyConfig(num_actions=2, architecture="impala", channels=(8, 8), hidden=16)
MAPPING = LatentToRealMapping([np.array([RIGHT]), np.array([RIGHT_UP, RIGHT_UP, RIGHT])])


@pytest.mark.parametrize("config", [NATURE, IMPALA], ids=["nature", "impala"])
def test_the_first_actions_are_those_of_the_cloned_policy_and_its_mapping(tmp_path, config):
    policy = Policy(config).eval()
    frames = torch.randint(0, 256, (5, 2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        latent = policy(frames, torch.full((5, 2), -1))[:, -1].softmax(-1).numpy()
    agent = finetune(tmp_path, policy, MAPPING, total_steps=0, **SMALL)
    chances = agent.model.policy.get_distribution(frames).distribution.probs.detach().numpy()
    expected = (1 - CHANCE_OF_UNSEEN) * latent @ MAPPING.chances() + CHANCE_OF_UNSEEN / NUM_ACTIONS
    np.testing.assert_allclose(chances, expected, atol=1e-5)


@pytest.mark.parametrize("config", [NATURE, IMPALA], ids=["nature", "impala"])
def test_all_that_was_cloned_learns_on(tmp_path, config):
    policy = Policy(config)
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    agent = finetune(tmp_path, policy, MAPPING, total_steps=16, learning_rate=1e-3, **SMALL)
    assert all((weight != before[name]).any() for name, weight in policy.state_dict().items())
    head = agent.model.policy.action_net
    assert isinstance(head, LatentHead)
    assert not torch.allclose(head.log_chances.exp().sum(-1), torch.ones(2), atol=1e-6)


def test_it_goes_on_where_it_was_cut(tmp_path):
    calls = []

    def on_rollout(steps, mean_return):
        calls.append(steps)
        if steps == 32 and len(calls) == 2:
            raise KeyboardInterrupt

    policy = Policy(PolicyConfig(num_actions=NUM_ACTIONS, hidden=16))
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path, policy, None, total_steps=64, on_rollout=on_rollout, **SMALL)
    assert PPO.load(tmp_path / PPO_CHECKPOINT)._n_updates > 0  # what the first rollout taught is saved
    agent = finetune(tmp_path, Policy(policy.config), None, total_steps=64, on_rollout=on_rollout, **SMALL)
    assert calls == [16, 32, 32, 48, 64] and agent.model.num_timesteps == 64
    again = finetune(tmp_path, Policy(policy.config), None, total_steps=64, on_rollout=on_rollout, **SMALL)
    assert len(calls) == 5  # nothing is left to do
    weights, loaded = agent.model.policy.state_dict(), again.model.policy.state_dict()
    assert all(torch.equal(weights[name], loaded[name]) for name in weights)


def test_a_folder_of_fine_tuning_is_no_expert(tmp_path):
    finetune(tmp_path, Policy(PolicyConfig(num_actions=NUM_ACTIONS, hidden=16)), None, total_steps=0, **SMALL).model.save(
        tmp_path / PPO_CHECKPOINT
    )
    for find in (identify_expert, partial(make_expert, seed=0)):
        with pytest.raises(ValueError, match="not the frame of a game"):
            find(str(tmp_path))
        with pytest.raises(ValueError, match="leave out ':2'"):
            find(f"{tmp_path}:2")


def test_a_finetuned_agent_plays_by_seed(tmp_path):
    agent = finetune(tmp_path, Policy(PolicyConfig(num_actions=NUM_ACTIONS, hidden=16)), None, total_steps=0, **SMALL)
    assert isinstance(agent, FinetunedAgent)
    obs, played = np.zeros((20, 64, 64, 3), np.uint8), []
    for seed in (0, 0, 1):
        agent.begin(20, seed)
        played.append([agent.act(obs[: 20 - step], np.arange(20 - step)).tolist() for step in range(3)])
    assert played[0] == played[1] != played[2]
    assert evaluate(agent, range(900_000, 900_002), difficulty="easy", seed=0, max_steps=10).steps.tolist() == [10, 10]


def test_what_cannot_be_finetuned_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nature and impala policies can be fine-tuned, not 'st_vivit'"):
        finetune(tmp_path, Policy(PolicyConfig(num_actions=15, architecture="st_vivit")), None, total_steps=1)
    with pytest.raises(ValueError, match="among 3 actions, and 2 are to be mapped"):
        finetune(tmp_path, Policy(PolicyConfig(num_actions=3, hidden=8)), MAPPING, total_steps=1)
    with pytest.raises(ValueError, match="with its mapping, or one of real actions without"):
        finetune(tmp_path, Policy(PolicyConfig(num_actions=3, hidden=8)), None, total_steps=1)
