"""Options of the POPGym tasks."""

from __future__ import annotations

from dataclasses import dataclass

from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.fields import option
from rmt_rl.config.registry import builtin

DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class POPGymConfig(EnvConfig):
    """A task of POPGym (Morad et al. 2023)."""

    difficulty: str = option("easy", "easy, medium or hard, as in POPGym", choices=DIFFICULTIES)


@builtin("env", "popgym-autoencode", "rmt_rl.envs.popgym.cards:Autoencode")
@dataclass(frozen=True)
class POPGymAutoencodeConfig(POPGymConfig):
    """POPGym's Autoencode: watch a deck, then answer its suits in reverse order."""


@builtin("env", "popgym-repeat-first", "rmt_rl.envs.popgym.cards:RepeatFirst")
@dataclass(frozen=True)
class POPGymRepeatFirstConfig(POPGymConfig):
    """POPGym's RepeatFirst, seed for seed: answer the suit of the first card at every step."""


@builtin("env", "popgym-repeat-previous", "rmt_rl.envs.popgym.cards:RepeatPrevious")
@dataclass(frozen=True)
class POPGymRepeatPreviousConfig(POPGymConfig):
    """POPGym's RepeatPrevious, seed for seed: answer the suit of the card seen k - 1 steps ago."""


@builtin("env", "popgym-count-recall", "rmt_rl.envs.popgym.cards:CountRecall")
@dataclass(frozen=True)
class POPGymCountRecallConfig(POPGymConfig):
    """POPGym's CountRecall: how many cards of a kind have been dealt?"""


@builtin("env", "popgym-higher-lower", "rmt_rl.envs.popgym.cards:HigherLower")
@dataclass(frozen=True)
class POPGymHigherLowerConfig(POPGymConfig):
    """POPGym's HigherLower: is the next card higher or lower?"""


@builtin("env", "popgym-concentration", "rmt_rl.envs.popgym.boards:Concentration")
@dataclass(frozen=True)
class POPGymConcentrationConfig(POPGymConfig):
    """POPGym's Concentration: turn two cards at a time and find the pairs."""


@builtin("env", "popgym-battleship", "rmt_rl.envs.popgym.boards:Battleship")
@dataclass(frozen=True)
class POPGymBattleshipConfig(POPGymConfig):
    """POPGym's Battleship: hit four ships on a board that is not shown."""


@builtin("env", "popgym-minesweeper", "rmt_rl.envs.popgym.boards:MineSweeper")
@dataclass(frozen=True)
class POPGymMineSweeperConfig(POPGymConfig):
    """POPGym's MineSweeper: uncover all cells without a mine on a board that is not shown."""


@builtin("env", "popgym-multiarmed-bandit", "rmt_rl.envs.popgym.bandit:MultiarmedBandit")
@dataclass(frozen=True)
class POPGymMultiarmedBanditConfig(POPGymConfig):
    """POPGym's MultiarmedBandit: find the arms that pay most often."""


@builtin("env", "popgym-position-only-cartpole", "rmt_rl.envs.popgym.control:PositionOnlyCartPole")
@dataclass(frozen=True)
class POPGymPositionOnlyCartPoleConfig(POPGymConfig):
    """POPGym's PositionOnlyCartPole: keep a pole upright without seeing velocities."""


@builtin("env", "popgym-velocity-only-cartpole", "rmt_rl.envs.popgym.control:VelocityOnlyCartPole")
@dataclass(frozen=True)
class POPGymVelocityOnlyCartPoleConfig(POPGymConfig):
    """POPGym's VelocityOnlyCartPole: keep a pole upright without seeing positions."""


@builtin("env", "popgym-position-only-pendulum", "rmt_rl.envs.popgym.control:PositionOnlyPendulum")
@dataclass(frozen=True)
class POPGymPositionOnlyPendulumConfig(POPGymConfig):
    """POPGym's PositionOnlyPendulum: swing a pendulum up without seeing its velocity."""


@builtin("env", "popgym-noisy-position-only-pendulum", "rmt_rl.envs.popgym.control:NoisyPositionOnlyPendulum")
@dataclass(frozen=True)
class POPGymNoisyPositionOnlyPendulumConfig(POPGymConfig):
    """POPGym's NoisyPositionOnlyPendulum: the same with noise on what is seen."""
