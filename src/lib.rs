//! Inference for gated networks.
