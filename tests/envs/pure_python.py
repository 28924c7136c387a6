"""Shared by the tests of the tasks: the random numbers, a step-by-step comparison with a reference, and policies without memory.

Nothing here uses the code under test. A game is a plain-Python implementation of the rules of a task for one episode:

    Game(draw)       draw(i) is the i-th random number of the episode
    observation()    plain numbers
    step(action)     -> reward, terminated, success (None where the task has none)
    good()           the action of an expert that knows the hidden state
"""

import itertools

import torch

_MASK = 2**64 - 1


def bits(seed, counter):
    """counter_bits with Python integers: SplitMix64 (Steele et al. 2014), twice."""
    return _mix(_mix(seed & _MASK) + counter * 0x9E3779B97F4A7C15 & _MASK) & 2**63 - 1


def _mix(z):
    z = z + 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


def episode(game, seed, number):
    """The game that a row of this seed plays as its episode of this number, from 0."""
    key = bits(seed, number)
    return game(lambda i: bits(key, i))


def follow(env, game, steps=20_000, seed=5):
    """Step `env` and a game per row, assert that everything is equal, and return the counts (successes, failures).

    Row 0 acts at random, the last row like the expert, the rows between with increasing probability like the expert.
    """
    rows, generator = env.num_envs, torch.Generator().manual_seed(0)
    number = [0] * rows
    games = [episode(game, seed + row, 0) for row in range(rows)]
    obs, _ = env.reset(seed=seed)
    assert obs.tolist() == [one.observation() for one in games]
    successes = failures = 0
    for _ in range(steps // rows + 1):
        chance = torch.randint(int(env.single_action_space.n), (rows,), generator=generator)
        careful = torch.rand(rows, generator=generator) < torch.arange(rows) / (rows - 1)
        good = torch.tensor([one.good() for one in games])
        action = torch.where(careful, good, chance)
        obs, reward, terminated, truncated, info = env.step(action)
        expected = [one.step(a) for one, a in zip(games, action.tolist(), strict=True)]
        success = info["success"].tolist() if env.measure == "success" else [None] * rows
        assert list(zip(reward.tolist(), terminated.tolist(), success, strict=True)) == expected
        assert not truncated.any()
        assert info["final_obs"].tolist() == [one.observation() for one in games]
        assert info["_final_obs"].tolist() == terminated.tolist()
        for row in terminated.nonzero().flatten().tolist():
            successes, failures = successes + (success[row] is True), failures + (success[row] is False)
            number[row] += 1
            games[row] = episode(game, seed + row, number[row])
        assert obs.tolist() == [one.observation() for one in games]
    assert sum(number) > rows
    return successes, failures


def shown(game, asked):
    """One episode of a task whose observations do not depend on the actions: [(observation, correct answer or None)].

    asked: the number of steps at the end that have an answer.
    """
    seen, over = [], False
    while not over:
        seen.append((game.observation(), game.good()))
        over = game.step(game.good())[1]
    return [(str(o), answer if i >= len(seen) - asked else None) for i, (o, answer) in enumerate(seen)]


def best_without_memory(episodes, actions):
    """(success rate, share of correct answers) of the best policies observation -> action, by trying all.

    episodes: [(probability, [(observation, correct answer or None), ...])].
    """
    looks = sorted({o for _, steps in episodes for o, answer in steps if answer is not None})
    success, share = 0.0, 0.0
    for choice in itertools.product(range(actions), repeat=len(looks)):
        policy = dict(zip(looks, choice, strict=True))
        results = [(p, [policy[o] == a for o, a in steps if a is not None]) for p, steps in episodes]
        success = max(success, sum(p for p, right in results if all(right)))
        share = max(share, sum(p * sum(right) / len(right) for p, right in results))
    return success, share


def play(env, act, seed=0):
    """(returns, successes) [B] of the first episode of every row with actions act(observation)."""
    obs, _ = env.reset(seed=seed)
    running = torch.ones(env.num_envs, dtype=torch.bool)
    returns, success = torch.zeros(2, env.num_envs, dtype=torch.float64)
    while bool(running.any()):
        obs, reward, terminated, _, info = env.step(act(obs))
        returns += torch.where(running, reward, 0.0)
        success += running & info.get("success", torch.zeros_like(running))
        running = running & ~terminated
    return returns, success
