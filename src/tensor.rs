//! Dense tensors: a type, a shape, and the elements in row-major order.

use std::fmt;
use std::ops::Deref;

use crate::{Error, Result};

/// The element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Truth value, stored as a byte that is 0 or 1.
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::U8 | DType::I8 | DType::Bool => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::Bool => "bool",
        })
    }
}

/// A Rust type that is the storage of a [`DType`]. Truth values are read and written as [`bool`] through [`View::bools`].
pub trait Element: bytemuck::Pod + Default + PartialEq + fmt::Debug + Send + Sync {
    /// The element type.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for i64 {
    const DTYPE: DType = DType::I64;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for i8 {
    const DTYPE: DType = DType::I8;
}

/// Axes that a tensor may have at most.
pub const MAX_RANK: usize = 8;

/// The extents of a tensor, outermost first. `Copy`, so that shapes cost nothing at run time; derefs to a slice.
///
/// The invariant, checked by [`Shape::new`]: at most [`MAX_RANK`] axes, and eight times the product of the extents fits `isize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape of a scalar: no axes, one element.
    pub const SCALAR: Shape = Shape {
        dims: [0; MAX_RANK],
        rank: 0,
    };

    /// A shape with these extents.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are more than [`MAX_RANK`] axes or the element count overflows.
    pub fn new(dims: &[usize]) -> Result<Self> {
        let fail = |why| Error::Shape {
            dims: dims.to_vec(),
            why,
        };
        if dims.len() > MAX_RANK {
            return Err(fail("more than 8 axes"));
        }
        // Zero extents are left out of the product: [0, huge] must not hide an overflow that a later op would meet.
        dims.iter()
            .filter(|&&d| d != 0)
            .try_fold(8usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n <= isize::MAX as usize)
            .ok_or_else(|| fail("too many elements"))?;
        let mut all = [0; MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Ok(Self {
            dims: all,
            rank: dims.len() as u8,
        })
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements: the product of the extents.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// The same shape with another extent along one of its axes: no greater than the one it replaces, or 1 instead of 0.
    pub(crate) fn with_dim(mut self, axis: usize, extent: usize) -> Self {
        debug_assert!(extent <= self[axis].max(1));
        self.dims[axis] = extent;
        self
    }

    /// Row-major strides in elements; entries past the rank are 0.
    pub fn strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for axis in (0..self.rank()).rev() {
            strides[axis] = step;
            step *= self.dims[axis];
        }
        strides
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// A borrowed tensor.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    dtype: DType,
    shape: Shape,
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// Views `data` as a tensor of this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shape is unusable or `data` does not have exactly its element count.
    pub fn new<T: Element>(dims: &[usize], data: &'a [T]) -> Result<Self> {
        let shape = Shape::new(dims)?;
        check_len(shape, data.len())?;
        Ok(Self {
            dtype: T::DTYPE,
            shape,
            bytes: bytemuck::cast_slice(data),
        })
    }

    /// Views raw storage: `bytes` must be aligned for the type and hold exactly `shape`.
    pub(crate) fn from_bytes(dtype: DType, shape: Shape, bytes: &'a [u8]) -> Self {
        debug_assert_eq!(bytes.len(), shape.elements() * dtype.size());
        Self {
            dtype,
            shape,
            bytes,
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// [`Error::Type`] when the tensor holds another type.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        expect(T::DTYPE, self.dtype)?;
        Ok(bytemuck::cast_slice(self.bytes))
    }

    /// The truth values, row-major.
    ///
    /// # Errors
    /// [`Error::Type`] when the tensor holds numbers.
    pub fn bools(&self) -> Result<impl ExactSizeIterator<Item = bool> + 'a> {
        expect(DType::Bool, self.dtype)?;
        Ok(self.bytes.iter().map(|&b| b != 0))
    }

    /// The storage, whatever the type.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// A copy that owns its elements.
    pub fn to_tensor(&self) -> Tensor {
        let mut tensor = Tensor::zeros(self.dtype, self.shape);
        tensor.view_mut().bytes.copy_from_slice(self.bytes);
        tensor
    }
}

/// A mutably borrowed tensor.
#[derive(Debug)]
pub struct ViewMut<'a> {
    dtype: DType,
    shape: Shape,
    bytes: &'a mut [u8],
}

impl<'a> ViewMut<'a> {
    /// Views raw storage: `bytes` must be aligned for the type and hold exactly `shape`.
    pub(crate) fn from_bytes(dtype: DType, shape: Shape, bytes: &'a mut [u8]) -> Self {
        debug_assert_eq!(bytes.len(), shape.elements() * dtype.size());
        Self {
            dtype,
            shape,
            bytes,
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// [`Error::Type`] when the tensor holds another type.
    pub fn as_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        expect(T::DTYPE, self.dtype)?;
        Ok(bytemuck::cast_slice_mut(self.bytes))
    }

    /// The storage, whatever the type. Truth values must stay 0 or 1.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.bytes
    }
}

/// A tensor that owns its elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Data,
}

/// Owned elements: a vector of the type's own alignment, so that views never copy.
#[derive(Debug, Clone, PartialEq)]
enum Data {
    Wide(Vec<i64>),
    Word(Vec<u32>),
    Byte(Vec<u8>),
}

impl Tensor {
    /// A tensor of these elements, row-major.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shape is unusable or `data` does not have exactly its element count.
    pub fn new<T: Element>(dims: &[usize], data: Vec<T>) -> Result<Self> {
        Ok(View::new(dims, &data)?.to_tensor())
    }

    /// A tensor of truth values.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_bools(dims: &[usize], data: &[bool]) -> Result<Self> {
        let shape = Shape::new(dims)?;
        check_len(shape, data.len())?;
        Ok(Self {
            dtype: DType::Bool,
            shape,
            data: Data::Byte(data.iter().map(|&b| b.into()).collect()),
        })
    }

    /// A tensor of one element and no axes.
    pub fn scalar<T: Element>(value: T) -> Self {
        View::from_bytes(T::DTYPE, Shape::SCALAR, bytemuck::bytes_of(&value)).to_tensor()
    }

    /// All elements zero (false).
    pub fn zeros(dtype: DType, shape: Shape) -> Self {
        let n = shape.elements();
        let data = match dtype.size() {
            8 => Data::Wide(vec![0; n]),
            4 => Data::Word(vec![0; n]),
            _ => Data::Byte(vec![0; n]),
        };
        Self { dtype, shape, data }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Borrows the tensor.
    pub fn view(&self) -> View<'_> {
        let bytes = match &self.data {
            Data::Wide(v) => bytemuck::cast_slice(v),
            Data::Word(v) => bytemuck::cast_slice(v),
            Data::Byte(v) => v,
        };
        View::from_bytes(self.dtype, self.shape, bytes)
    }

    /// Borrows the tensor for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let bytes = match &mut self.data {
            Data::Wide(v) => bytemuck::cast_slice_mut(v),
            Data::Word(v) => bytemuck::cast_slice_mut(v),
            Data::Byte(v) => v,
        };
        ViewMut::from_bytes(self.dtype, self.shape, bytes)
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// [`Error::Type`] when the tensor holds another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.view().as_slice()
    }
}

fn check_len(shape: Shape, len: usize) -> Result<()> {
    if shape.elements() == len {
        Ok(())
    } else {
        Err(Error::Shape {
            dims: shape.to_vec(),
            why: "does not match the number of elements given",
        })
    }
}

fn expect(expected: DType, found: DType) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::Type { expected, found })
    }
}
