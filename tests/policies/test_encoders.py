"""Which encoder a space gets, what shapes it gives, and that it keeps apart what is different."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.text import TextBytes
from rmt_rl.policies import encoders
from rmt_rl.policies.encoders import (
    Categories,
    CategoryPicture,
    Image,
    LookUp,
    ObservationEncoder,
    Sum,
    Vector,
    category_sizes,
    distinct_rows,
    make_encoder,
)
from rmt_rl.policies.pictures import describe_pictures
from rmt_rl.policies.words import Words

WIDTH = 16
INT64 = np.iinfo(np.int64)


def box(low, high, shape, dtype):
    return spaces.Box(low, high, shape, dtype)


PER_CHANNEL = spaces.Box(np.zeros((3, 3, 3)), np.full((3, 3, 3), [10, 5, 2]), dtype=np.uint8)
SPACES = {
    "Discrete": (spaces.Discrete(5), Categories),
    "Discrete, 64 values": (spaces.Discrete(64), Categories),
    "Discrete, 65 values": (spaces.Discrete(65), LookUp),
    "MultiDiscrete, large": (spaces.MultiDiscrete([[3, 100], [2, 5]]), LookUp),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3, 4]), Categories),
    "MultiDiscrete 2-d": (spaces.MultiDiscrete([[2, 3], [4, 5]]), Categories),
    "MultiBinary": (spaces.MultiBinary(6), Categories),
    "MultiBinary 2-d": (spaces.MultiBinary((2, 3)), Categories),
    "few whole numbers": (box(-3, 3, (4,), np.int64), Categories),
    "64 whole numbers": (box(0, 63, (2,), np.int64), Categories),
    "65 whole numbers": (box(0, 64, (2,), np.int64), Vector),
    "few and many whole numbers": (spaces.Box(np.zeros(2), np.array([3, 64]), dtype=np.int64), Vector),
    "few whole numbers per channel": (PER_CHANNEL, CategoryPicture),
    "a grid of digits": (box(0, 9, (2, 3, 1), np.int64), CategoryPicture),
    "cells that differ": (spaces.Box(0, np.arange(1, 9).reshape(2, 2, 2), dtype=np.uint8), Categories),
    "whole numbers from different lows": (box(np.array([0, -2]), np.array([3, 1]), (2,), np.int64), Vector),
    "many whole numbers": (box(-(2**31), 2**31 - 1, (3,), np.int32), Vector),
    "bounded": (box(-2.0, 6.0, (3,), np.float32), Vector),
    "bounded 2-d": (box(0.0, 1.0, (2, 5), np.float32), Vector),
    "unbounded": (box(-np.inf, np.inf, (3,), np.float32), Vector),
    "bounded on one side": (box(0.0, np.inf, (3,), np.float32), Vector),
    "one number without axes": (box(-1.0, 1.0, (), np.float32), Vector),
    "picture, channels last": (box(0, 255, (84, 84, 3), np.uint8), Image),
    "picture, channels first": (box(0, 255, (3, 84, 84), np.uint8), Image),
    "four frames": (box(0, 255, (4, 84, 84), np.uint8), Image),
    "the smallest picture": (box(0, 255, (36, 36, 1), np.uint8), Image),
    "grey picture": (box(0, 255, (40, 50), np.uint8), Image),
    "picture of floats": (box(0, 1, (40, 50, 3), np.float32), Image),
    "picture of floats up to 255": (box(0, 255, (3, 40, 50), np.float32), Image),
    "picture of int64": (box(0, 255, (40, 50, 1), np.int64), Image),
    "frames of a picture, channels last": (box(0, 255, (2, 40, 50, 3), np.uint8), Image),
    "frames of a picture, channels first": (box(0, 1, (2, 3, 40, 50), np.float32), Image),
    "floats beyond 0 to 1": (box(-1, 1, (40, 50), np.float32), Vector),
    "too small for a picture of floats": (box(0, 1, (30, 40, 3), np.float32), Vector),
    "too small for a picture": (box(0, 255, (35, 36, 3), np.uint8), Vector),
    "small uint8 array": (box(0, 255, (7, 7, 3), np.uint8), Vector),
    "bytes": (box(0, 255, (128,), np.uint8), Vector),
    "Dict": (spaces.Dict({"a": spaces.Discrete(3), "b": box(0, 255, (7, 7, 3), np.uint8)}), Sum),
    "Dict, axes first": (spaces.Dict({"a": box(0.0, 1.0, (2,), np.float32), "b": spaces.Discrete(3)}), Sum),
    "Dict of one": (spaces.Dict({"a": spaces.Discrete(3)}), Sum),
}
every = pytest.mark.parametrize("name", SPACES)


def make(name_or_space):
    space = SPACES[name_or_space][0] if isinstance(name_or_space, str) else name_or_space
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ObservationEncoder(space, WIDTH)


def sample(space, *leading):
    """Random observations as the environments give them, [*leading, *shape]."""
    if isinstance(space, spaces.Dict):
        return {key: sample(entry, *leading) for key, entry in space.items()}
    count = int(np.prod(leading))
    space.seed(0)
    return torch.from_numpy(np.stack([space.sample() for _ in range(count)])).view(*leading, *space.shape)


def pick(obs, index):
    return {key: value[index] for key, value in obs.items()} if isinstance(obs, dict) else obs[index]


@every
def test_the_encoder_is_chosen_from_the_space(name):
    space, expected = SPACES[name]
    assert type(make_encoder(space, WIDTH)) is expected


@pytest.mark.thorough
@every
def test_one_vector_for_each_observation_whatever_the_leading_axes_are(name):
    encoder, obs = make(name), sample(SPACES[name][0], 3, 2)
    with torch.no_grad():
        x_BTD = encoder(obs)
        assert x_BTD.shape == (3, 2, WIDTH)
        assert x_BTD.dtype == torch.float32
        assert bool(x_BTD.isfinite().all())
        for b, t in itertools.product(range(3), range(2)):
            torch.testing.assert_close(
                encoder(pick(pick(obs, b), slice(t, t + 1)))[0], x_BTD[b, t], rtol=1e-5, atol=1e-5
            )
        x_BD = encoder(pick(obs, 1))
    assert x_BD.shape == (2, WIDTH)
    torch.testing.assert_close(x_BD, x_BTD[1], rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@every
def test_different_observations_have_different_vectors(name):
    encoder, obs = make(name), sample(SPACES[name][0], 20)
    with torch.no_grad():
        x = encoder(obs)
    values = torch.cat([v.reshape(20, -1).float() for v in (obs.values() if isinstance(obs, dict) else [obs])], dim=1)
    distinct = len(values.unique(dim=0))
    assert distinct > 1
    assert len(x.unique(dim=0)) == distinct


@pytest.mark.thorough
@every
def test_gradient_reaches_every_weight(name):
    encoder = make(name)
    encoder(sample(SPACES[name][0], 8)).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in encoder.parameters())


# --------------------------------------------------------------------------------------------------------- categories


@pytest.mark.parametrize(
    "space, values",
    [
        (spaces.Discrete(7), torch.arange(7)),
        (spaces.MultiDiscrete([2, 3, 4]), torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4))),
        (spaces.MultiBinary(4), torch.cartesian_prod(*[torch.arange(2)] * 4)),
        (box(-2, 2, (2,), np.int64), torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))),
        (
            box(np.array([0, 0]), np.array([4, 1]), (2,), np.uint8),
            torch.cartesian_prod(torch.arange(5), torch.arange(2)).byte(),
        ),
    ],
)
def test_one_hot_keeps_every_pair_of_values_apart(space, values):
    """Each (element, value) has a column of its own in the linear layer: set to the identity, it shows the one-hot."""
    encoder = make(space)
    linear = encoder.encoder.linear
    linear.weight.data, linear.bias.data = torch.eye(linear.in_features), torch.zeros(linear.in_features)
    seen = encoder(values)
    elements = int(np.prod(space.shape))
    assert seen.sum(-1).tolist() == [elements] * len(values)
    assert set(seen.flatten().tolist()) == {0.0, 1.0}
    assert len(seen.unique(dim=0)) == len(values)
    assert seen.any(0).tolist() == [True] * linear.in_features, "a column that no value uses"
    # two observations that differ in one element differ in that element's columns only
    differing = (values.view(len(values), -1)[:, None] != values.view(len(values), -1)[None]).sum(-1)
    assert torch.equal((seen[:, None] != seen[None]).sum(-1), 2 * differing)


def test_the_sum_over_many_elements_has_deviation_one_at_the_start():
    for space in (spaces.Discrete(9), spaces.MultiDiscrete([9] * 50)):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            x = make_encoder(space, 4000)(sample(space, 4))
        assert float(x.std()) == pytest.approx(1, abs=0.1)


def anywhere_sees(space, obs):
    """What the linear layer `anywhere` of a CategoryPicture is given, made visible by the identity in its place."""
    picture = make_encoder(space, 18)
    picture.linear.weight.data.zero_()
    picture.linear.bias.data.zero_()
    picture.anywhere.weight.data = torch.eye(18)
    return picture(obs).detach()


def test_a_value_anywhere_in_a_grid_is_seen_once_for_its_channel():
    """Channels of 10, 5 and 3 values have 18 columns."""
    space = spaces.Box(np.zeros((2, 2, 3)), np.full((2, 2, 3), [9, 4, 2]), dtype=np.uint8)
    obs = torch.tensor([[[9, 0, 1], [9, 4, 1]], [[3, 0, 1], [9, 0, 1]]], dtype=torch.uint8)
    (seen,) = anywhere_sees(space, obs[None])
    assert seen.nonzero().flatten().tolist() == [3, 9, 10 + 0, 10 + 4, 15 + 1]
    assert seen.max() == 1, "three cells with a 9 are as one"


def test_where_a_value_stands_in_a_grid_does_not_matter_to_the_part_that_sees_all_cells():
    space = spaces.Box(np.zeros((2, 2, 3)), np.full((2, 2, 3), [9, 4, 2]), dtype=np.uint8)
    obs = sample(space, 5)
    moved = obs.view(5, 4, 3)[:, [2, 0, 3, 1]].view(obs.shape)
    assert torch.equal(anywhere_sees(space, obs), anywhere_sees(space, moved))
    assert not torch.equal(make_encoder(space, WIDTH)(obs), make_encoder(space, WIDTH)(moved))


# ------------------------------------------------------------------------------------------------------- real numbers


def seen_by_linear(space, obs):
    encoder = make(space)
    linear = encoder.encoder.linear
    linear.weight.data, linear.bias.data = torch.eye(linear.in_features), torch.zeros(linear.in_features)
    return encoder(obs)


def test_bounds_are_scaled_to_minus_one_and_one():
    space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([6.0, 0.5], np.float32))
    seen = seen_by_linear(space, torch.tensor([[-2.0, 0.0], [6.0, 0.5], [2.0, 0.25]]))
    torch.testing.assert_close(seen, torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]))


def test_whole_numbers_without_categories_are_scaled_by_their_bounds_too():
    assert seen_by_linear(box(0, 100, (1,), np.int64), torch.tensor([[0], [50], [100]])).tolist() == [[-1], [0], [1]]


def test_what_has_no_bounds_stays_as_it_is():
    low, high = np.array([-np.inf, 0, -np.inf, 3], np.float32), np.array([np.inf, np.inf, 0, 3], np.float32)
    obs = torch.tensor([[7.0, 8.0, -9.0, 3.0]])
    assert torch.equal(seen_by_linear(spaces.Box(low, high), obs), obs)


def test_small_pictures_are_standardised():
    space = box(0, 255, (4, 4, 1), np.uint8)
    seen = seen_by_linear(space, torch.randint(11, (5, 4, 4, 1), generator=torch.Generator().manual_seed(0)).byte())
    assert seen.mean(1).tolist() == pytest.approx([0] * 5, abs=1e-5)
    assert seen.var(1, correction=0).tolist() == pytest.approx([1] * 5, abs=0.05)


# ------------------------------------------------------------------------------------------------- pictures, Dict


def test_a_picture_is_the_same_with_its_channels_first_or_last():
    last, first = make("picture, channels last"), make("picture, channels first")
    first.load_state_dict(last.state_dict())
    obs = sample(SPACES["picture, channels last"][0], 2)
    torch.testing.assert_close(last(obs), first(obs.permute(0, 3, 1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("picture of floats", lambda x: x.float() / 255),
        ("picture of floats up to 255", lambda x: x.permute(0, 3, 1, 2).float()),
    ],
)
def test_a_picture_of_floats_is_the_same_as_one_of_bytes(name, change):
    bytes_ = box(0, 255, (40, 50, 3), np.uint8)
    one, other = make(bytes_), make(name)
    other.load_state_dict(one.state_dict())
    obs = sample(bytes_, 2)
    torch.testing.assert_close(one(obs), other(change(obs)), rtol=1e-5, atol=1e-5)


def test_frames_of_a_picture_are_its_channels_side_by_side():
    flat, last, first = (make(box(0, 255, shape, np.uint8)) for shape in ((6, 40, 50), (2, 40, 50, 3), (2, 3, 40, 50)))
    obs = sample(box(0, 255, (2, 3, 40, 50), np.uint8), 2)
    for encoder, shown in ((last, obs.permute(0, 1, 3, 4, 2)), (first, obs)):
        encoder.load_state_dict(flat.state_dict())
        torch.testing.assert_close(encoder(shown), flat(obs.flatten(1, 2)), rtol=1e-5, atol=1e-5)


def test_the_banner_names_pictures_and_those_that_are_too_small():
    space = spaces.Dict(
        a=box(0, 1, (40, 50), np.float32), b=box(0, 255, (32, 64, 3), np.uint8), c=box(0, 255, (7, 7, 3), np.uint8)
    )
    assert describe_pictures(space) == [
        "'a': a picture of 40 x 50 pixels, 1 channel, seen through convolutions",
        "'b': a picture of 32 x 64 pixels, 3 channels, smaller than 36 x 36: flattened, no convolutions",
    ]


def test_policies_of_the_first_rules_keep_their_encoders():
    before = {"Discrete, 65 values": Categories, "grey picture": Vector, "picture of floats": Vector}
    for name, expected in before.items():
        assert type(make_encoder(SPACES[name][0], WIDTH, rules=1)) is expected
    for name in ("picture, channels last", "four frames", "the smallest picture"):
        assert type(make_encoder(SPACES[name][0], WIDTH, rules=1)) is Image


def test_a_learned_vector_for_every_value_is_what_one_hot_computes():
    space = spaces.MultiDiscrete([3, 100])
    look_up, one_hot = make(space).encoder, make_encoder(space, WIDTH, rules=1)
    with torch.no_grad():
        one_hot.linear.bias.zero_()
        one_hot.linear.weight.copy_(look_up.table.weight.T)
    obs = sample(space, 50)
    torch.testing.assert_close(look_up(obs), one_hot(obs), rtol=1e-5, atol=1e-5)


def test_more_values_than_memory_holds_vectors_are_refused_in_one_sentence():
    for space in (spaces.Discrete(2**40), spaces.MultiDiscrete([2**19, 2**19 + 1])):
        with pytest.raises(ConfigError, match=r"values; at most 1,048,576 can have a learned vector each"):
            make_encoder(space, WIDTH)


def test_height_and_width_of_a_picture_are_not_mixed_up():
    for shape in ((40, 90, 3), (3, 40, 90)):
        space = box(0, 255, shape, np.uint8)
        assert isinstance(make_encoder(space, WIDTH), Image)
        assert make(space)(sample(space, 2)).shape == (2, WIDTH)


def test_a_dict_is_the_sum_of_its_entries():
    encoder, obs = make("Dict"), sample(SPACES["Dict"][0], 3)
    parts = [part(obs[key]) for key, part in zip(encoder.encoder.keys, encoder.encoder.encoders, strict=True)]
    torch.testing.assert_close(encoder(obs), parts[0] + parts[1])


@pytest.mark.parametrize("name", ["Dict", "Dict of one"])
def test_a_dict_whose_first_entry_has_no_axes_keeps_rows_and_time(name):
    """The leading axes are read off the first entry; a Discrete one has nothing else."""
    encoder, space = make(name), SPACES[name][0]
    assert next(iter(space.values())).shape == ()
    assert encoder(sample(space, 5)).shape == (5, WIDTH)
    assert encoder(sample(space, 5, 1)).shape == (5, 1, WIDTH)
    assert encoder(sample(space, 1, 5)).shape == (1, 5, WIDTH)


# -------------------------------------------------------------------------------------------------------- unsupported


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
        spaces.Graph(spaces.Discrete(2), spaces.Discrete(3)),
        spaces.Dict({"fine": spaces.Discrete(2), "not": spaces.Text(5)}),
    ],
)
def test_an_unsupported_space_is_one_line_that_names_the_supported_ones(space):
    with pytest.raises(ConfigError, match="supported are Box, Discrete, MultiDiscrete, MultiBinary and Dict") as caught:
        ObservationEncoder(space, WIDTH)
    assert "\n" not in str(caught.value)


def test_an_unsupported_space_of_many_lines_is_still_one_line():
    with pytest.raises(ConfigError) as caught:
        ObservationEncoder(spaces.Tuple([spaces.MultiDiscrete([[2, 3], [4, 5]])]), WIDTH)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("low", [INT64.min, 0])
def test_whole_numbers_without_a_bound_are_quantities(low):
    assert type(make_encoder(box(low, INT64.max, (3,), np.int64), WIDTH)) is Vector


def test_few_whole_numbers_far_from_zero_are_still_counted_right():
    assert category_sizes(box(2**60, 2**60 + 9, (1,), np.int64)) == [10]


def test_a_single_byte_is_still_seen():
    x = make(box(0, 255, (1,), np.uint8))(torch.tensor([[0], [200]], dtype=torch.uint8))
    assert not torch.equal(x[0], x[1])


def test_bounds_that_say_nothing_are_no_bounds():
    huge = float(np.finfo(np.float32).max)
    x = make(box(-huge, huge, (2,), np.float32))(torch.tensor([[1.0, 2.0], [-3.0, 4.0]]))
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("key", ["outer.inner", "keys", "type", "forward"])
def test_an_entry_of_a_dict_may_have_any_name(key):
    """gym_adapter joins the keys of nested dictionaries with a dot."""
    space = spaces.Dict({key: spaces.Discrete(3)})
    assert make(space)(sample(space, 4)).shape == (4, WIDTH)


def test_an_empty_dict_is_refused_in_one_line():
    with pytest.raises(ConfigError):
        ObservationEncoder(spaces.Dict({}), WIDTH)


@pytest.mark.parametrize("hash_bits", [63, 0], ids=["hash", "hash that tells nothing apart"])
def test_distinct_rows_name_one_row_of_each_kind(hash_bits, monkeypatch):
    if hash_bits == 0:
        monkeypatch.setattr(encoders, "counter_bits", lambda seed, counter: torch.zeros_like(counter))
    x = torch.randint(0, 3, (400, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    where, kind = distinct_rows(x)
    assert torch.equal(x[where][kind], x)
    assert len(where) == len({tuple(row) for row in x.tolist()})


@pytest.mark.parametrize("space", [PER_CHANNEL, spaces.MultiDiscrete([3, 4])], ids=["picture", "categories"])
def test_encoding_each_distinct_row_once_changes_neither_vectors_nor_gradients(space, monkeypatch):
    space.seed(0)
    x = torch.as_tensor(np.stack([space.sample() for _ in range(20)] * 5))
    torch.manual_seed(0)
    encoder = make_encoder(space, WIDTH).double()
    results = []
    for many in (1, len(x) + 1):
        monkeypatch.setattr(encoders, "MANY_ROWS", many)
        y = encoder(x)
        gradients = torch.autograd.grad(y.pow(2).sum(), tuple(encoder.parameters()))
        results.append([y.detach(), *gradients])
    for once, each in zip(*results, strict=True):
        torch.testing.assert_close(once, each, atol=1e-12, rtol=1e-12)


def test_the_number_of_a_word_depends_on_its_letters_and_their_order_and_not_on_its_place():
    encoder = Words(TextBytes(24, characters=False), WIDTH)

    def numbers(text):
        shown = torch.tensor([list(text.encode().ljust(24, b"\0"))])
        ids, present = encoder.tokens(shown)
        return ids[present].tolist()

    ab, ba, abc = numbers("ab ba abc")
    assert len({ab, ba, abc}) == 3
    assert numbers("abc  x ab") == [abc, *numbers("x"), ab] and numbers("ba") == [ba] and numbers("") == []


def test_the_numbers_of_words_and_pairs_are_those_that_saved_policies_were_trained_with():
    """The hash, computed again with Python's unbounded integers; another one would give every word another vector."""

    def number(word, factor=0x9E3779B97F4A7C15, bits=2**64):
        total = sum((byte + 1) * pow(factor, i, bits) for i, byte in enumerate(word.encode())) % bits
        signed = total - bits if total >= bits // 2 else total
        total = ((signed ^ (signed >> 29)) * factor) % bits
        signed = total - bits if total >= bits // 2 else total
        return (signed ^ (signed >> 32)) % 4096

    encoder = Words(TextBytes(24, characters=False), WIDTH).double()
    shown = torch.tensor([list(b"go to a door".ljust(24, b"\0"))])
    ids, present = encoder.tokens(shown)
    words = [number(word) for word in ("go", "to", "a", "door")]
    assert ids[present].tolist() == words
    pairs = [(a * 31 + b) % 4096 for a, b in itertools.pairwise(words)]
    total = encoder.table.weight[words].sum(0) + encoder.pairs.weight[pairs].sum(0)
    torch.testing.assert_close(encoder(shown)[0], encoder.linear(total / 7**0.5), atol=1e-12, rtol=1e-12)


def test_a_grid_is_described_as_a_picture_from_8_by_8_on():
    for shape, described in (((8, 8, 3), True), ((7, 20, 3), False), ((20, 7, 3), False)):
        assert bool(describe_pictures(box(0, 255, shape, np.uint8))) == described
