"""All options of rmt_rl: frozen, torch-free dataclasses, and the one function that resolves them, `make_config`."""

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.config.algos import PPOConfig, RATEConfig, SupervisedConfig
from rmt_rl.config.bases import AlgoConfig, EnvConfig, PolicyConfig
from rmt_rl.config.commands import (
    CollectConfig,
    EvaluateConfig,
    ExportConfig,
    PlayConfig,
    ReturnConditioning,
    TrainConfig,
    UntilConfig,
)
from rmt_rl.config.envs import (
    MINIGRID_IDS,
    AssociativeRetrievalConfig,
    BanditConfig,
    ColorCubesConfig,
    CopyConfig,
    DarkRoomConfig,
    DetectConfig,
    DoorKeyConfig,
    GymConfig,
    MemoryLenConfig,
    MiniGridMemoryConfig,
    NoEnvConfig,
    ReasoningConfig,
    RedBlueDoorsConfig,
    RepeatFirstConfig,
    RepeatPreviousConfig,
    TMazeActiveConfig,
    TMazeConfig,
    TMazeEndlessConfig,
    TMazeRATEConfig,
    TMazeTrialConfig,
)
from rmt_rl.config.fields import LARGEST_RETURN, Config, did_you_mean, nearest_divisor, option, options, read, show
from rmt_rl.config.files import as_typed, from_dict, load_yaml, part_from_dict, save_yaml, to_dict
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.policies import (
    GRUConfig,
    GTrXLConfig,
    LSTMConfig,
    MLPConfig,
    RecurrentConfig,
    RMTConfig,
    TransformerConfig,
    TrXLConfig,
    WindowConfig,
)
from rmt_rl.config.recurrences import (
    DeltaNetConfig,
    FFMConfig,
    HierarchicalConfig,
    MinGRUConfig,
    MLSTMConfig,
    ReformerConfig,
    RoutingConfig,
    RWKV4Config,
    RWKV7Config,
)
from rmt_rl.config.registry import (
    GROUPS,
    choose,
    entry_of,
    register_algo,
    register_encoder,
    register_env,
    register_policy,
)
from rmt_rl.config.resolve import make_config, validate

__all__ = [name for name in dir() if not name.startswith("_")]
