//! Constant tensors of a file, and the data beside it.
//!
//! Types that the engine does not have become one that holds every value of theirs: f16 and bf16 -> f32, i16 and u16 -> i32,
//! u32 -> i64. f64 and u64 become f32 and i64 when each element survives it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::proto::TensorProto;
use crate::{DType, Error, Result, Shape, Tensor};

/// How often the bytes of one external file may be loaded: tensors may share bytes, but not without end.
const EXTERNAL_READS: u64 = 4;

/// The element types of ONNX that can be constants.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stored {
    As(DType),
    F16,
    Bf16,
    F64,
    I16,
    U16,
    U32,
    U64,
}

impl Stored {
    fn size(self) -> usize {
        match self {
            Stored::As(dtype) => dtype.size(),
            Stored::F16 | Stored::Bf16 | Stored::I16 | Stored::U16 => 2,
            Stored::U32 => 4,
            Stored::F64 | Stored::U64 => 8,
        }
    }
}

/// The engine's type for a type of ONNX, if it has it.
pub(super) fn dtype(data_type: i64) -> Option<DType> {
    Some(match data_type {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        _ => return None,
    })
}

/// The name of a type of ONNX.
pub(super) fn type_name(data_type: i64) -> String {
    const NAMES: [&str; 28] = [
        "undefined",
        "f32",
        "u8",
        "i8",
        "u16",
        "i16",
        "i32",
        "i64",
        "string",
        "bool",
        "f16",
        "f64",
        "u32",
        "u64",
        "complex64",
        "complex128",
        "bf16",
        "f8e4m3fn",
        "f8e4m3fnuz",
        "f8e5m2",
        "f8e5m2fnuz",
        "u4",
        "i4",
        "f4e2m1",
        "f8e8m0",
        "u2",
        "i2",
        "f6",
    ];
    usize::try_from(data_type)
        .ok()
        .and_then(|i| NAMES[..27].get(i))
        .map_or_else(|| format!("number {data_type}"), |&n| n.into())
}

/// Makes tensors; remembers how much it read of which file.
#[derive(Debug, Default)]
pub(super) struct Constants {
    dir: Option<PathBuf>,
    read: HashMap<PathBuf, u64>,
}

impl Constants {
    /// External data is looked for in `dir`.
    pub(super) fn new(dir: Option<&Path>) -> Self {
        Self {
            dir: dir.map(Path::to_path_buf),
            read: HashMap::new(),
        }
    }

    /// The tensor that a message describes; `name` is for error messages.
    pub(super) fn tensor(&mut self, proto: &TensorProto<'_>, name: &str) -> Result<Tensor> {
        let wrong = |what: &str| Error::Model(format!("tensor `{name}`: {what}"));
        let stored = match (dtype(proto.data_type), proto.data_type) {
            (Some(dtype), _) => Stored::As(dtype),
            (_, 4) => Stored::U16,
            (_, 5) => Stored::I16,
            (_, 10) => Stored::F16,
            (_, 11) => Stored::F64,
            (_, 12) => Stored::U32,
            (_, 13) => Stored::U64,
            (_, 16) => Stored::Bf16,
            (_, other) => {
                return Err(Error::Unsupported {
                    node: format!("tensor `{name}`"),
                    what: format!("the element type {}", type_name(other)),
                });
            }
        };
        let dims = (proto.dims.iter())
            .map(|&d| usize::try_from(d).map_err(|_| wrong("negative extent")))
            .collect::<Result<Vec<_>>>()?;
        let shape = Shape::new(&dims).map_err(|e| wrong(&e.to_string()))?;
        // `Shape` keeps eight bytes an element within `isize`.
        let bytes = shape.elements() * stored.size();
        if proto.is_external {
            let raw = self.external(proto, bytes, name)?;
            return convert(stored, shape, &raw).map_err(wrong);
        }
        match proto.raw {
            Some(raw) if raw.len() == bytes => convert(stored, shape, raw).map_err(wrong),
            Some(raw) => Err(wrong(&format!(
                "shape {shape} needs {bytes} bytes, the file has {}",
                raw.len()
            ))),
            None => typed(stored, shape, proto).map_err(|e| wrong(&e)),
        }
    }

    /// Bytes of a file beside the model.
    fn external(&mut self, proto: &TensorProto<'_>, bytes: usize, name: &str) -> Result<Vec<u8>> {
        let wrong = |what: String| Error::Model(format!("tensor `{name}`: {what}"));
        let key = |key: &str| (proto.external.iter().find(|e| e.0 == key)).map(|e| e.1);
        let number = |k: &str| match key(k) {
            Some(text) => text
                .parse::<u64>()
                .map_err(|_| wrong(format!("{k} of the external data is not a number"))),
            None => Ok(0),
        };
        let location =
            key("location").ok_or_else(|| wrong("external data without a location".into()))?;
        let relative = Path::new(location);
        let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !relative.components().all(inside) {
            return Err(wrong(format!(
                "external data at `{location}`, which is outside the model's folder"
            )));
        }
        let Some(dir) = &self.dir else {
            return Err(wrong(format!(
                "external data at `{location}`, but the model was not read from a folder; use `import::from_file`"
            )));
        };
        let path = dir.join(relative);
        let io = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(wrong(format!("`{location}` is not a file")));
        }
        let (offset, length) = (number("offset")?, number("length")?);
        let wanted = bytes as u64;
        if key("length").is_some() && length != wanted {
            return Err(wrong(format!(
                "the shape needs {wanted} bytes, the external data has {length}"
            )));
        }
        if (offset.checked_add(wanted)).is_none_or(|end| end > metadata.len()) {
            return Err(wrong(format!(
                "bytes {offset} + {wanted} are past the end of `{location}`, which has {}",
                metadata.len()
            )));
        }
        let read = self.read.entry(path.clone()).or_default();
        *read = read.saturating_add(wanted);
        if *read > metadata.len().saturating_mul(EXTERNAL_READS) {
            return Err(wrong(format!(
                "the tensors share the bytes of `{location}` more than {EXTERNAL_READS} times"
            )));
        }
        let mut raw = vec![0; bytes];
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        file.read_exact(&mut raw).map_err(io)?;
        Ok(raw)
    }
}

/// A tensor from little-endian elements; `raw` has exactly the bytes of `shape`.
fn convert(stored: Stored, shape: Shape, raw: &[u8]) -> Result<Tensor, &'static str> {
    let halves = || {
        raw.as_chunks::<2>()
            .0
            .iter()
            .map(|&b| u16::from_le_bytes(b))
    };
    let words = || {
        raw.as_chunks::<4>()
            .0
            .iter()
            .map(|&b| u32::from_le_bytes(b))
    };
    let wides = || {
        raw.as_chunks::<8>()
            .0
            .iter()
            .map(|&b| u64::from_le_bytes(b))
    };
    let tensor = match stored {
        Stored::As(DType::Bool) => {
            let bools: Vec<bool> = raw.iter().map(|&b| b != 0).collect();
            Tensor::from_bools(&shape, &bools)
        }
        Stored::As(dtype) => {
            let mut tensor = Tensor::zeros(dtype, shape);
            let mut view = tensor.view_mut();
            view.bytes().copy_from_slice(raw);
            if cfg!(target_endian = "big") {
                view.bytes()
                    .chunks_exact_mut(dtype.size())
                    .for_each(<[u8]>::reverse);
            }
            Ok(tensor)
        }
        Stored::F16 => Tensor::new(&shape, halves().map(from_f16).collect()),
        Stored::Bf16 => Tensor::new(&shape, halves().map(from_bf16).collect()),
        Stored::I16 => Tensor::new(
            &shape,
            halves().map(|v| i32::from(v.cast_signed())).collect(),
        ),
        Stored::U16 => Tensor::new(&shape, halves().map(i32::from).collect()),
        Stored::U32 => Tensor::new(&shape, words().map(i64::from).collect()),
        Stored::U64 => {
            let all = wides().map(i64::try_from).collect::<Result<Vec<_>, _>>();
            Tensor::new(&shape, all.map_err(|_| "a u64 does not fit i64")?)
        }
        Stored::F64 => Tensor::new(&shape, narrowed(wides().map(f64::from_bits))?),
    };
    tensor.map_err(|_| "the element count is wrong")
}

/// f64 elements as f32, when none changes.
fn narrowed(values: impl Iterator<Item = f64>) -> Result<Vec<f32>, &'static str> {
    values
        .map(|v| {
            let narrow = v as f32;
            (f64::from(narrow) == v || v.is_nan())
                .then_some(narrow)
                .ok_or("an f64 does not fit f32")
        })
        .collect()
}

/// A tensor from the typed lists of a message.
fn typed(stored: Stored, shape: Shape, proto: &TensorProto<'_>) -> Result<Tensor, String> {
    let n = shape.elements();
    let count = |found: usize| {
        if found == n {
            Ok(())
        } else {
            Err(format!(
                "shape {shape} needs {n} elements, the file has {found}"
            ))
        }
    };
    let tensor = match stored {
        Stored::As(DType::F32) => {
            count(proto.floats.len())?;
            Tensor::new(&shape, proto.floats.clone())
        }
        Stored::F64 => {
            count(proto.doubles.len())?;
            Tensor::new(&shape, narrowed(proto.doubles.iter().copied())?)
        }
        _ => {
            let ints = &proto.ints;
            count(ints.len())?;
            let fit = || "an element does not fit its type".to_string();
            match stored {
                Stored::As(DType::I64) => Tensor::new(&shape, ints.clone()),
                Stored::As(DType::Bool) => {
                    let bools: Vec<bool> = ints.iter().map(|&v| v != 0).collect();
                    Tensor::from_bools(&shape, &bools)
                }
                Stored::As(DType::I32) => Tensor::new(&shape, all::<i32>(ints).ok_or_else(fit)?),
                Stored::As(DType::U8) => Tensor::new(&shape, all::<u8>(ints).ok_or_else(fit)?),
                Stored::As(DType::I8) => Tensor::new(&shape, all::<i8>(ints).ok_or_else(fit)?),
                Stored::F16 | Stored::Bf16 => {
                    let to = if stored == Stored::F16 {
                        from_f16
                    } else {
                        from_bf16
                    };
                    let bits = all::<u16>(ints).ok_or_else(fit)?;
                    Tensor::new(&shape, bits.into_iter().map(to).collect())
                }
                Stored::I16 => Tensor::new(
                    &shape,
                    all::<i16>(ints)
                        .ok_or_else(fit)?
                        .into_iter()
                        .map(i32::from)
                        .collect(),
                ),
                Stored::U16 => Tensor::new(
                    &shape,
                    all::<u16>(ints)
                        .ok_or_else(fit)?
                        .into_iter()
                        .map(i32::from)
                        .collect(),
                ),
                Stored::U32 => Tensor::new(
                    &shape,
                    all::<u32>(ints)
                        .ok_or_else(fit)?
                        .into_iter()
                        .map(i64::from)
                        .collect(),
                ),
                // The wire has the bits of the u64: a negative i64 is one that does not fit.
                _ if ints.iter().any(|&v| v < 0) => return Err(fit()),
                _ => Tensor::new(&shape, ints.clone()),
            }
        }
    };
    tensor.map_err(|e| e.to_string())
}

/// All integers in a narrower type, or none.
fn all<T: TryFrom<i64>>(ints: &[i64]) -> Option<Vec<T>> {
    ints.iter().map(|&v| T::try_from(v).ok()).collect()
}

fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// sign 1, exponent 5 (bias 15), fraction 10
fn from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => (fraction as f32 * 2f32.powi(-24)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proto(data_type: i64, dims: &[i64]) -> TensorProto<'static> {
        TensorProto {
            dims: dims.to_vec(),
            data_type,
            ..TensorProto::default()
        }
    }

    fn make(proto: &TensorProto<'_>) -> Result<Tensor> {
        Constants::default().tensor(proto, "t")
    }

    #[test]
    fn halves_keep_their_value() {
        let values = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, value) in values {
            assert_eq!(from_f16(bits), value);
        }
        assert!(from_f16(0x7e00).is_nan());
        assert!(from_f16(0x8000).is_sign_negative());
        assert_eq!(from_bf16(0xbf80), -1.0);
    }

    #[test]
    fn element_counts_must_match() {
        let mut t = proto(1, &[2]);
        t.floats = vec![1.0];
        assert!(make(&t).unwrap_err().to_string().contains("2 elements"));
        t.raw = Some(&[0; 7]);
        assert!(make(&t).unwrap_err().to_string().contains("8 bytes"));
        let huge = proto(1, &[i64::MAX, i64::MAX]);
        assert!(make(&huge).is_err());
        assert!(make(&proto(1, &[0, 1 << 50])).is_ok());
        assert!(make(&proto(1, &[-1])).is_err());
    }

    #[test]
    fn types_without_a_storage_of_ours() {
        let mut t = proto(11, &[1]);
        t.doubles = vec![0.1];
        assert!(make(&t).is_err(), "0.1 is not an f32");
        t.doubles = vec![0.5];
        assert_eq!(make(&t).unwrap().as_slice::<f32>().unwrap(), [0.5]);
        let mut t = proto(5, &[1]);
        t.raw = Some(&[0xff, 0xff]);
        assert_eq!(make(&t).unwrap().as_slice::<i32>().unwrap(), [-1]);
        let mut t = proto(2, &[1]);
        t.ints = vec![256];
        assert!(make(&t).is_err());
        let text = make(&proto(8, &[])).unwrap_err().to_string();
        assert!(text.contains("tensor `t`") && text.contains("string"));
    }

    #[test]
    fn external_data_stays_in_the_folder_and_in_the_file() {
        let dir = std::env::temp_dir().join(format!("sluicegate-external-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let floats = [1f32, 2.0].map(f32::to_le_bytes).concat();
        std::fs::write(dir.join("weights"), floats).unwrap();
        let load = |entries: &[(&'static str, &'static str)], n| {
            let mut t = proto(1, &[n]);
            t.is_external = true;
            t.external = entries.to_vec();
            Constants::new(Some(&dir)).tensor(&t, "t")
        };
        let here = ("location", "weights");
        let two = load(&[here], 2).unwrap();
        assert_eq!(two.as_slice::<f32>().unwrap(), [1.0, 2.0]);
        let second = load(&[here, ("offset", "4"), ("length", "4")], 1).unwrap();
        assert_eq!(second.as_slice::<f32>().unwrap(), [2.0]);
        for (entries, n) in [
            (&[here][..], 3),
            (&[here], 1 << 55),
            (&[here, ("offset", "18446744073709551615")], 1),
            (&[here, ("length", "8")], 1),
            (&[("location", "../weights")], 2),
            (&[("location", "/etc/hostname")], 2),
            (&[("location", ".")], 0),
            (&[("location", "")], 2),
            (&[("location", "nothing")], 2),
            (&[], 2),
        ] {
            assert!(load(entries, n).is_err(), "{entries:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
