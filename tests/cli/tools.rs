//! Calls of the binary, and the files that they read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

pub(crate) const KWS: &str = "models/kws_dynamic.onnx";
pub(crate) const MFCC: &str = "input=models/expected/mfcc.npy";

/// Runs the command in the root of the project.
pub(crate) fn sluicegate(args: &[&str]) -> Output {
    with_env(args, &[])
}

pub(crate) fn with_env(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("SLUICEGATE_ISA")
        .env_remove("SLUICEGATE_MAX_ISA")
        .envs(env.iter().copied())
        .args(args)
        .output()
        .unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a good call prints.
#[track_caller]
pub(crate) fn good(args: &[&str]) -> String {
    let output = sluicegate(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {errors}");
    assert_eq!(errors, "", "{args:?}");
    stdout(&output)
}

/// A bad call ends with code 1 and one line that holds every one of `words`.
#[track_caller]
pub(crate) fn bad(args: &[&str], words: &[&str]) {
    check_bad(&sluicegate(args), words);
}

#[track_caller]
pub(crate) fn check_bad(output: &Output, words: &[&str]) {
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(
        line.starts_with("error: ") && line.lines().count() == 1,
        "{line}"
    );
    for word in words {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Names of the files in a folder.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn write(dir: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A tone in every channel.
pub(crate) fn wav(
    dir: &TempDir,
    name: &str,
    channels: u16,
    sample_rate: u32,
    seconds: f32,
) -> PathBuf {
    let path = dir.path().join(name);
    let spec = hound::WavSpec {
        channels,
        sample_rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for i in 0..(seconds * sample_rate as f32) as u32 {
        let phase = i as f32 * 440.0 * std::f32::consts::TAU / sample_rate as f32;
        for _ in 0..channels {
            writer.write_sample((8000.0 * phase.sin()) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
    path
}

/// An ONNX model of one node `y = op(x)` on two floats.
pub(crate) fn one_node(op: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2, bytes.len() as u8];
        out.extend(bytes);
        out
    };
    let dims = field(2, &field(1, &[1 << 3, 2])); // shape { dim { dim_value: 2 } }
    let tensor = [&[1 << 3, 1][..], &dims].concat(); // elem_type: FLOAT
    let value = |name: &str| [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(4, op.as_bytes())].concat();
    let graph = [
        field(1, &node),
        field(2, b"g"),
        field(11, &value("x")),
        field(12, &value("y")),
    ];
    let opset = [field(1, b""), vec![2 << 3, 17]].concat();
    [vec![1 << 3, 8], field(7, &graph.concat()), field(8, &opset)].concat()
}
