"""Stable-Baselines3 learns on vector environments as it does on its own, without knowing what is inside the batch."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from random_world import random_genie
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from genie_agents.sb3 import GymnasiumVecEnv
from world_model import SamplingConfig


class Counter(gymnasium.Env):
    """Counts up from a random number; action 1 ends the episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = float((options or {}).get("start", self.np_random.integers(1000)))
        return self._obs(), {"begun": self.count}

    def step(self, action):
        self.count += 1
        return self._obs(), self.count, bool(action), False, {"count": self.count}

    def render(self):
        return np.full((2, 2, 3), self.count % 256, np.uint8)

    def _obs(self):
        return np.array([self.count], np.float32)


def make_counters() -> list:
    return [lambda: TimeLimit(Counter(), 4)] * 3


@pytest.fixture
def vec_env() -> GymnasiumVecEnv:
    return GymnasiumVecEnv(SyncVectorEnv(make_counters(), autoreset_mode=AutoresetMode.SAME_STEP))


def test_it_behaves_as_stable_baselines_own(vec_env):
    own = DummyVecEnv(make_counters())
    for envs in (vec_env, own):
        envs.seed(3)
    np.testing.assert_array_equal(vec_env.reset(), own.reset())
    assert vec_env.reset_infos == own.reset_infos
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(20):
        actions = rng.random(3) < 0.2
        outcome, expected = vec_env.step(actions.astype(int)), own.step(actions.astype(int))
        for values, others in zip(outcome[:3], expected[:3], strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)
        assert outcome[3] == expected[3]
        assert vec_env.reset_infos == own.reset_infos
        ends += outcome[2].sum()
    assert ends > 5
    np.testing.assert_array_equal(vec_env.get_images(), own.get_images())
    assert vec_env.get_attr("render_mode") == own.get_attr("render_mode")
    assert vec_env.render_mode == "rgb_array"


def test_options_reach_the_worlds_once(vec_env):
    vec_env.set_options({"start": 7})
    assert vec_env.reset().flatten().tolist() == [7, 7, 7]
    assert vec_env.reset().flatten().tolist() != [7, 7, 7]
    vec_env.set_options([{"start": 1}, {"start": 2}, {"start": 3}])
    with pytest.raises(ValueError, match="share their options"):
        vec_env.reset()


def test_attributes_and_methods_are_those_of_the_batch(vec_env):
    vec_env.reset()
    assert vec_env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert len(vec_env.env_method("render", indices=1)) == 1
    vec_env.set_attr("note", "hello")
    assert vec_env.get_attr("note") == ["hello"] * 3
    with pytest.raises(ValueError, match="without indices"):
        vec_env.set_attr("note", "you", indices=[1])
    assert not vec_env.has_attr("nothing")


@pytest.mark.parametrize("autoreset_mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(autoreset_mode):
    with pytest.raises(ValueError, match="SAME_STEP"):
        GymnasiumVecEnv(SyncVectorEnv(make_counters(), autoreset_mode=autoreset_mode))


def test_ppo_learns_in_a_learned_world():
    envs = gymnasium.make_vec(
        "world_model:Genie-v0",
        num_envs=8,
        model=random_genie(),
        sampling=SamplingConfig(steps=1),
        autoreset_mode=AutoresetMode.SAME_STEP,
        max_episode_steps=10,
        reward_fn=lambda before, actions, frames: (actions == 2).astype(float),
    )
    vec_env = VecMonitor(GymnasiumVecEnv(envs))
    agent = PPO("MlpPolicy", vec_env, n_steps=32, batch_size=64, n_epochs=4, learning_rate=1e-3, seed=0, device="cpu")
    agent.learn(1024)
    assert len(agent.ep_info_buffer) == 96  # 12 episodes of 10 steps in the 128 steps of each of 8 worlds
    reward, _ = evaluate_policy(agent, vec_env, n_eval_episodes=8)
    assert reward > 4  # chance is 2.5
