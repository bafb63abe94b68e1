//! NumPy's NPY files, versions 1 to 3.
//!
//! Our own reader, because the files may come from strangers: no length is trusted before the bytes are there, and the header is
//! a flat dictionary of three entries, read without recursion. A general parser of Python literals overflows its stack on `((((`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sluicegate::{DType, Shape, Tensor, View};

const MAGIC: &[u8] = b"\x93NUMPY";

/// An element type that tensors do not have.
#[derive(Debug, thiserror::Error)]
#[error("elements of type {0} are not supported (f32, i64, i32, u8, i8 and bool are)")]
pub(crate) struct UnsupportedType(String);

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Tensor> {
    std::fs::read(path)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| parse(&bytes))
        .with_context(|| path.display().to_string())
}

/// Reads the content of a file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Tensor> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .context("is not an NPY file (the first bytes are not \\x93NUMPY)")?;
    let short = || anyhow!("is cut short in the header");
    let (&[major, _minor], rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (len, rest) = match major {
        1 => rest
            .split_first_chunk()
            .map(|(n, rest)| (u16::from_le_bytes(*n) as usize, rest)),
        2 | 3 => rest
            .split_first_chunk()
            .map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        _ => bail!("is an NPY file of version {major}; versions 1 to 3 are supported"),
    }
    .ok_or_else(short)?;
    let (header, data) = rest.split_at_checked(len).ok_or_else(short)?;
    let header = str::from_utf8(header).context("has a header that is not text")?;
    let header = Header::parse(header)?;
    header.tensor(data)
}

/// The content of a file that holds `tensor`.
pub(crate) fn bytes(tensor: View<'_>) -> Vec<u8> {
    let descr = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::U8 => "|u1",
        DType::I8 => "|i1",
        _ => "|b1",
    };
    let mut shape = String::new();
    for d in tensor.shape().iter() {
        shape.push_str(&format!("{d}, "));
    }
    let mut header = format!(
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}",
        if tensor.shape().rank() > 1 {
            shape.trim_end_matches(", ")
        } else {
            shape.trim_end()
        }
    );
    // Data start at a multiple of 64 bytes; the header ends with a newline.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend((header.len() as u16).to_le_bytes()); // at most 8 extents: a few hundred bytes
    out.extend(header.as_bytes());
    let start = out.len();
    out.extend(tensor.bytes());
    if cfg!(target_endian = "big") {
        swap(&mut out[start..], tensor.dtype().size());
    }
    out
}

struct Header {
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    dims: Vec<usize>,
}

impl Header {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let quoted = [format!("'{name}':"), format!("\"{name}\":")];
            quoted
                .iter()
                .find_map(|key| text.split_once(key.as_str()))
                .map(|(_, rest)| rest.trim_start())
                .with_context(|| format!("has no `{name}` in its header"))
        };
        let descr = field("descr")?;
        let quote = descr.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let descr = quote
            .and_then(|q| descr[1..].split_once(q))
            .map(|(descr, _)| descr)
            .ok_or_else(|| UnsupportedType("record".to_owned()))?;
        let fortran = field("fortran_order")?.starts_with("True");
        let dims = field("shape")?
            .strip_prefix('(')
            .and_then(|rest| rest.split_once(')'))
            .context("has no shape in its header")?
            .0;
        let dims = dims
            .split(',')
            .map(str::trim)
            .filter(|d| !d.is_empty())
            .map(|d| d.parse().with_context(|| format!("has the extent `{d}`")))
            .collect::<Result<_>>()?;
        let (order, kind) = match descr.as_bytes().first() {
            Some(b'<' | b'>' | b'|' | b'=') => descr.split_at(1),
            _ => ("|", descr),
        };
        let dtype = match kind {
            "f4" => DType::F32,
            "i8" => DType::I64,
            "i4" => DType::I32,
            "u1" => DType::U8,
            "i1" => DType::I8,
            "b1" | "?" => DType::Bool,
            _ => return Err(UnsupportedType(type_name(descr, kind)).into()),
        };
        Ok(Self {
            dtype,
            big_endian: order == ">" || (order == "=" && cfg!(target_endian = "big")),
            fortran,
            dims,
        })
    }

    /// The tensor with these elements. Nothing is allocated before the length is known to be right.
    fn tensor(&self, data: &[u8]) -> Result<Tensor> {
        let size = self.dtype.size();
        let shape = Shape::new(&self.dims)?;
        let expected = shape.elements() * size;
        ensure!(
            data.len() == expected,
            "holds {} bytes of data where {} {shape} needs {expected}",
            data.len(),
            self.dtype,
        );
        let mut tensor = Tensor::zeros(self.dtype, shape);
        let mut view = tensor.view_mut();
        let to = view.bytes();
        if self.fortran && shape.rank() > 1 {
            copy_transposed(data, to, &shape, size);
        } else {
            to.copy_from_slice(data);
        }
        if self.big_endian != cfg!(target_endian = "big") {
            swap(to, size);
        }
        if self.dtype == DType::Bool {
            to.iter_mut().for_each(|b| *b = (*b != 0).into());
        }
        Ok(tensor)
    }
}

/// From first axis fastest to last axis fastest.
fn copy_transposed(from: &[u8], to: &mut [u8], shape: &Shape, size: usize) {
    let mut index = vec![0; shape.rank()];
    for element in to.chunks_exact_mut(size) {
        let at = index.iter().zip(shape.iter()).rev();
        let at = at.fold(0, |sum, (&i, &d)| sum * d + i) * size;
        element.copy_from_slice(&from[at..at + size]);
        for (i, &d) in index.iter_mut().zip(shape.iter()).rev() {
            *i += 1;
            if *i < d {
                break;
            }
            *i = 0;
        }
    }
}

fn swap(bytes: &mut [u8], size: usize) {
    bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
}

/// `f64` rather than `<f8`.
fn type_name(descr: &str, kind: &str) -> String {
    match kind.split_at_checked(1) {
        Some((letter @ ("f" | "i" | "u"), bytes)) => match bytes.parse::<u8>() {
            Ok(n @ 1..=16) => format!("{letter}{}", u32::from(n) * 8),
            _ => descr.to_owned(),
        },
        _ => descr.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([version, 0]);
        match version {
            1 => out.extend((header.len() as u16).to_le_bytes()),
            _ => out.extend((header.len() as u32).to_le_bytes()),
        }
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    fn error(bytes: &[u8]) -> String {
        format!("{:#}", parse(bytes).unwrap_err())
    }

    #[test]
    fn what_is_written_is_read() {
        for dims in [&[][..], &[3], &[0, 4], &[2, 3], &[1, 2, 3, 2]] {
            let n = dims.iter().product::<usize>();
            let floats: Vec<f32> = (0..n).map(|i| i as f32 - 1.5).collect();
            let longs: Vec<i64> = (0..n).map(|i| i as i64 - 2).collect();
            let bools: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
            for tensor in [
                Tensor::new(dims, floats).unwrap(),
                Tensor::new(dims, longs).unwrap(),
                Tensor::from_bools(dims, &bools).unwrap(),
            ] {
                let file = bytes(tensor.view());
                assert_eq!(parse(&file).unwrap(), tensor);
                assert_eq!(file.iter().position(|&b| b == b'\n').unwrap() % 64, 63);
            }
        }
    }

    #[test]
    fn reads_fortran_order_and_big_endian() {
        let header = "{'descr': '>i4', 'fortran_order': True, 'shape': (2, 3), }\n";
        let data: Vec<u8> = [1i32, 4, 2, 5, 3, 6]
            .iter()
            .flat_map(|v| v.to_be_bytes())
            .collect();
        for version in [1, 2, 3] {
            let tensor = parse(&file(version, header, &data)).unwrap();
            assert_eq!(
                tensor,
                Tensor::new(&[2, 3], vec![1i32, 2, 3, 4, 5, 6]).unwrap()
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let f32s = |shape: &str, data: &[u8]| {
            let header =
                format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
            error(&file(1, &header, data))
        };
        assert!(error(b"PK\x03\x04").contains("not an NPY file"));
        assert!(error(&file(1, "", &[])[..9]).contains("cut short"));
        assert!(error(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}").contains("cut short"));
        assert!(error(&file(9, "", &[])).contains("version 9"));
        assert!(error(&file(1, "((((((((((", &[])).contains("no `descr`"));
        assert!(
            f32s("(2, 2)", &[0; 12]).contains("holds 12 bytes of data where f32 [2, 2] needs 16")
        );
        assert!(f32s("(99999999999, 99999999999)", &[0; 4]).contains("too many elements"));
        assert!(f32s("(-1,)", &[0; 4]).contains("the extent `-1`"));
        assert!(f32s("(1,1,1,1,1,1,1,1,1)", &[0; 4]).contains("more than 8 axes"));
        let f64s = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }";
        let wrong = parse(&file(1, f64s, &[0; 8])).unwrap_err();
        assert!(wrong.downcast_ref::<UnsupportedType>().is_some());
        assert!(wrong.to_string().contains("f64"));
        let record = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }";
        assert!(error(&file(1, record, &[0; 4])).contains("record"));
    }
}
