//! Shared by the integration tests.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod attempt;
pub(crate) mod damage;
pub(crate) mod graphs;
pub(crate) mod net;

use std::path::{Path, PathBuf};

/// A path below `models/`.
pub(crate) fn models(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(path)
}

/// Shape and elements of an NPY file.
pub(crate) fn npy<T: npyz::Deserialize>(path: impl AsRef<Path>) -> (Vec<usize>, Vec<T>) {
    let path = path.as_ref();
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = npyz::NpyFile::new(&bytes[..]).expect("a readable NPY header");
    let shape = file.shape().iter().map(|&d| d as usize).collect();
    (
        shape,
        file.into_vec().expect("elements of the type asked for"),
    )
}
