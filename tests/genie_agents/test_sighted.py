"""The sighted expert decides on every frame by the view alone; it begins as an apprentice and learns on from reward."""

import numpy as np
import pytest
import torch

from genie_agents.coinrun import LEFT, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.demonstrations import RecordingConfig, play_level
from genie_agents.experts.apprentice import Apprentice, ApprenticeConfig
from genie_agents.experts.compiled_coinrun import KEYS, MAX_FRAMES, OBSERVATION_SIZE, CompiledCoinRun, read_levels
from genie_agents.experts.players import identify_expert, make_expert
from genie_agents.experts.run_and_jump import AgentTracker
from genie_agents.experts.sighted import SightedConfig, SightedExpert, SightedPolicy
from genie_agents.experts.sighted_training import train_sighted
from genie_agents.experts.view import VIEW_SIZE


def always(key, num_keys=None, brake_frames=1):
    """An expert that answers with this key, and with RIGHT+UP where it may not, whatever it sees."""
    policy = SightedPolicy(SightedConfig(hidden=(16,), brake_frames=brake_frames))
    torch.nn.init.zeros_(policy.head.linear.weight)
    policy.head.linear.bias.data = torch.tensor([0.0, 0.5, 0.0]) + torch.eye(len(KEYS))[KEYS.index(key)]
    return SightedExpert(policy, num_keys=num_keys)


def test_up_is_held_as_by_a_hand_and_changes_nothing():
    expert, env, plain = always(RIGHT_UP), ProcgenEnv(), ProcgenEnv()
    obs, _ = env.reset(options={"level_seed": 900_000})
    plain.reset(options={"level_seed": 900_000})
    expert.begin(env)
    actions = []
    for _ in range(12):
        on_ground = AgentTracker(env).on_ground
        actions.append(expert.act(obs))
        obs, *_ = env.step(actions[-1])
        expected, *_ = plain.step(RIGHT_UP if on_ground else RIGHT)
        np.testing.assert_array_equal(obs, expected)
    assert actions == [RIGHT_UP] * 4 + [RIGHT] * 8


def test_up_is_held_in_a_jump_that_another_began():
    expert, env = always(RIGHT), ProcgenEnv()
    env.reset(options={"level_seed": 900_000})
    for _ in range(2):
        obs, *_ = env.step(RIGHT_UP)
    expert.begin(env)
    actions = []
    for _ in range(8):
        actions.append(expert.act(obs))
        obs, *_ = env.step(actions[-1])
    assert actions == [RIGHT_UP] * 2 + [RIGHT] * 6


class Whim(SightedPolicy):
    """A key at random, whatever it sees."""

    def __init__(self, config, seed):
        super().__init__(config)
        self.generator, self.num_asked = np.random.default_rng(seed), 0

    def choose(self):
        self.num_asked += 1
        return int(self.generator.choice(len(KEYS), p=[0.7, 0.1, 0.2]))

    def forward(self, observations):
        return torch.eye(len(KEYS))[[self.choose()]]


@pytest.mark.parametrize("brake_frames", [1, 3])
def test_the_expert_plays_the_game_that_it_was_taught_in(brake_frames):
    """By the same whims a level ends in both after as many decisions, and as well."""
    config, env = SightedConfig(hidden=(16,), brake_frames=brake_frames), ProcgenEnv()
    games = CompiledCoinRun(read_levels("easy", range(900_000, 900_040)), 1, blur=0, slip=0, braking_share=1, brake_frames=brake_frames)
    outcomes = []
    for level in range(40):
        taught, plays, ended = Whim(config, level), Whim(config, level), False
        games.reset(seed=0, options={"levels": [level]})
        while not ended:
            *_, (ended,), _, infos = games.step(np.array([taught.choose()]))
        expert, (obs, _), ended = SightedExpert(plays), env.reset(options={"level_seed": 900_000 + level}), False
        expert.begin(env)
        while not ended and env.elapsed_steps < MAX_FRAMES:
            obs, _, ended, _, info = env.step(expert.act(obs))
        assert plays.num_asked == taught.num_asked
        outcomes.append(infos["final_info"]["level_solved"][0])
        assert outcomes[-1] == info["level_solved"]
    assert 0 < np.mean(outcomes) < 1


def test_left_is_held_while_the_expert_stands():
    expert, env = always(LEFT, brake_frames=3), ProcgenEnv()
    obs, _ = env.reset(options={"level_seed": 900_000})
    expert.begin(env)
    logits = expert.policy.head.linear.bias.data
    actions = []
    for _ in range(5):
        actions.append(expert.act(obs))
        obs, *_ = env.step(actions[-1])
        logits[KEYS.index(RIGHT)] = 9.0  # it would run now, as soon as it is asked
    assert actions == [LEFT] * 3 + [RIGHT] * 2
    logits[KEYS.index(RIGHT)] = 0.0
    assert expert.act(obs) == LEFT
    expert.begin(env)  # a disturbance: it looks again
    logits[KEYS.index(RIGHT)] = 9.0
    assert expert.act(obs) == RIGHT
    with pytest.raises(ValueError, match="held for 1 frame or more"):
        SightedConfig(brake_frames=0)


class AlwaysJumping:
    """RIGHT+UP held down: what a collapsed network would reach."""

    def begin(self, env):
        return True

    def act(self, obs):
        return RIGHT_UP


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_the_one_that_ships_plays_better_than_a_key_held_down(difficulty):
    env, config = ProcgenEnv(difficulty=difficulty), RecordingConfig(difficulty=difficulty, noise=0, delay=0)
    players, solved = (make_expert("sighted", seed=0), make_expert("sighted:2", seed=0), AlwaysJumping()), [0, 0, 0]
    for level_seed in range(900_000, 900_060):
        for index, player in enumerate(players):
            solved[index] += play_level(env, player, level_seed, config, np.random.default_rng(0))[1]
    assert min(solved[:2]) >= solved[2] + 10
    assert identify_expert("sighted").startswith("sighted-")


def test_an_expert_may_be_kept_from_braking():
    env, config = ProcgenEnv(), RecordingConfig(noise=0, delay=0)
    keys = {}
    for name in ("sighted", "sighted:2"):
        expert = make_expert(name, seed=0)
        segments = [play_level(env, expert, level_seed, config, np.random.default_rng(0))[0] for level_seed in range(900_000, 900_010)]
        keys[name] = {int(key) for part in segments for segment in part for key in segment.actions}
    assert keys == {"sighted": {LEFT, RIGHT, RIGHT_UP}, "sighted:2": {RIGHT, RIGHT_UP}}
    assert identify_expert("sighted:2") == identify_expert("sighted") + ":2"
    env.reset(options={"level_seed": 900_000})
    for num_keys, key in ((3, LEFT), (2, RIGHT_UP)):
        expert = always(LEFT, num_keys=num_keys)
        expert.begin(env)
        assert expert.act(np.zeros(0)) == key
    with pytest.raises(FileNotFoundError, match="no expert 'sighted:two'"):
        make_expert("sighted:two", seed=0)
    for name in ("sighted:4", "sighted:1", "sighted:0"):
        with pytest.raises(ValueError, match="this expert plays with 3 keys, or with 2"):
            make_expert(name, seed=0)
        with pytest.raises(ValueError, match="this expert plays with 3 keys, or with 2"):
            identify_expert(name)


def test_it_begins_with_what_the_apprentice_expects():
    torch.manual_seed(0)
    apprentice = Apprentice(ApprenticeConfig(hidden=(32, 16)))
    policy = SightedPolicy.from_apprentice(apprentice)
    views = torch.randn(5, VIEW_SIZE)
    for may_brake in (0, 1):
        logits = policy(torch.cat([views, torch.full((5, 1), float(may_brake))], dim=1))
        torch.testing.assert_close(logits[:, :2], apprentice(views)[:, :2])
        assert (logits[:, 2] < apprentice(views)[:, 2]).all() and (logits[:, 2] < -1e6).all() == (not may_brake)
    with pytest.raises(ValueError, match="knows 2 moves"):
        SightedPolicy.from_apprentice(Apprentice(ApprenticeConfig(num_moves=2, hidden=(16,))))
    with pytest.raises(ValueError, match="at least one hidden layer"):
        SightedConfig(hidden=())


@pytest.mark.slow
def test_it_learns_from_reward_and_goes_on(tmp_path):
    """From nothing it soon solves more of four levels; afterwards its folder is an expert's, and the next call goes on."""
    torch.manual_seed(0)
    policy, levels = SightedPolicy(SightedConfig(hidden=(64,))), read_levels("easy", range(30_000, 30_004))
    returns = []
    options = {"minutes": 10, "num_envs": 32, "decisions_per_rollout": 64, "batch_size": 256, "learning_rate": 2e-3}

    def on_rollout(decisions, mean_return):
        returns.append((decisions, mean_return))

    train_sighted(tmp_path, policy, levels, total_decisions=40_960, on_rollout=on_rollout, **options)
    assert returns[-1][0] == 40_960
    assert np.mean([solved for _, solved in returns[-3:]]) > np.mean([solved for _, solved in returns[:3]]) + 0.2
    assert isinstance(make_expert(str(tmp_path), seed=0), SightedExpert)
    before = SightedPolicy.from_pretrained(tmp_path)
    after = train_sighted(tmp_path, policy, levels, total_decisions=43_008, on_rollout=on_rollout, **options)
    for other in (SightedConfig(hidden=(32,)), SightedConfig(hidden=(64,), brake_frames=3)):
        with pytest.raises(ValueError, match="holds an expert of SightedConfig"):
            train_sighted(tmp_path, SightedPolicy(other), levels, total_decisions=45_056, on_rollout=on_rollout, **options)
    assert [decisions for decisions, _ in returns[-2:]] == [40_960, 43_008]
    observations = torch.randn(4, OBSERVATION_SIZE)
    assert not torch.equal(before(observations), after(observations))
    torch.testing.assert_close(SightedPolicy.from_pretrained(tmp_path)(observations), after(observations))
