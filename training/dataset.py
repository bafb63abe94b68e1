"""Reads clip files of clips.py."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Clips:
    log_mel: np.ndarray
    label: np.ndarray
    labels: list

    def __len__(self):
        return len(self.label)

    @property
    def is_positive(self):
        return self.label < len(self.labels) - 2

    @classmethod
    def load(cls, *paths):
        """Several files as one; their class lists have to be the same."""
        features, label, labels = [], [], None
        for path in paths:
            with np.load(path) as file:
                names = file["labels"].tolist()
                if labels not in (None, names):
                    raise ValueError(f"{path}: its classes differ from those of {paths[0]}")
                labels = names
                features.append(file["log_mel"].astype(np.float32))
                label.append(file["label"])
        return cls(np.concatenate(features), np.concatenate(label), labels)
