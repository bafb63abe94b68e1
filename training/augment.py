"""Random changes to log-mel features [N, 49, 40] during training, one draw per clip."""

import torch


def pick_frames(features, index):
    """features[n, index[n, t]] for index [N, frames]."""
    return features.gather(1, index[:, :, None].expand(-1, -1, features.shape[2]))


def shift_and_stretch(features):
    """Up to five frames early or late, and 0.75 to 1.35 times as slow around the middle."""
    count, frames, _ = features.shape
    middle = frames // 2
    shift = torch.randint(-5, 6, (count, 1))
    stretch = torch.exp(0.15 * torch.randn(count, 1)).clamp(0.75, 1.35)
    index = (torch.arange(frames)[None] - middle) * stretch + middle + shift
    return pick_frames(features, index.round().long().clamp(0, frames - 1))


def warp_frequency(features):
    """Stretches the mel axis by 0.82 to 1.22 and moves it: other vocal tracts than the voices at hand."""
    count, frames, mels = features.shape
    factor = torch.exp(0.09 * torch.randn(count, 1)).clamp(0.82, 1.22)
    position = torch.arange(mels)[None] * factor + 0.8 * torch.randn(count, 1)
    position = position.clamp(0, mels - 1.001)
    below = position.long()
    share = (position - below)[:, None, :]
    index = below[:, None, :].expand(-1, frames, -1)
    return features.gather(2, index) * (1 - share) + features.gather(2, index + 1) * share


def colour(features):
    """Level, spectral tilt and a constant offset per band: rooms and microphones."""
    count, _, mels = features.shape
    level = 0.6 * torch.randn(count, 1, 1)
    slope = 0.8 * torch.randn(count, 1, 1) * torch.linspace(-1, 1, mels)
    return features + level + slope + 0.15 * torch.randn(count, 1, mels)


def blank(features, axis, longest):
    """Replaces a random stretch of up to `longest` frames (axis 1) or bands (axis 2) by the clip's mean."""
    count, size = features.shape[0], features.shape[axis]
    start = torch.randint(0, size, (count, 1))
    length = torch.randint(0, longest + 1, (count, 1))
    place = torch.arange(size)[None]
    hit = (place >= start) & (place < start + length)
    hit = hit[:, :, None] if axis == 1 else hit[:, None, :]
    return torch.where(hit, features.mean((1, 2), keepdim=True), features)


def augment(features):
    features = colour(warp_frequency(shift_and_stretch(features)))
    return blank(blank(features, axis=1, longest=5), axis=2, longest=4)
