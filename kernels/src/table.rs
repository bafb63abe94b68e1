//! The kernel table: every kernel by name, for tests, benches and logs.

/// A kernel: one name, one string, everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// `dtypes_op[_fuse]_MRxNR_isa`, without the tile where the kernel has none.
    pub name: &'static str,
    /// The operation.
    pub op: &'static str,
    /// The instruction set.
    pub isa_name: &'static str,
    /// Rows of the register tile.
    pub mr: usize,
    /// Columns of the register tile.
    pub nr: usize,
}

/// Rows of a kernel whose body is written over `F32s`: one for each instruction set of this build.
macro_rules! on_every_isa {
    ($($op:literal $mr:literal $nr:literal;)*) => {
        &[$(
            $crate::table::Row { name: concat!("f32_", $op, "_portable"), op: $op, isa_name: "portable", mr: $mr, nr: $nr },
            #[cfg(target_arch = "x86_64")]
            $crate::table::Row { name: concat!("f32_", $op, "_avx2"), op: $op, isa_name: "avx2", mr: $mr, nr: $nr },
            #[cfg(target_arch = "x86_64")]
            $crate::table::Row { name: concat!("f32_", $op, "_avx512"), op: $op, isa_name: "avx512", mr: $mr, nr: $nr },
        )*]
    };
}
pub(crate) use on_every_isa;

/// The row of an operation that every instruction set has.
pub(crate) fn find(op: &str, isa: crate::Isa) -> &'static Row {
    rows()
        .find(|row| row.op == op && row.isa_name == isa.name())
        .expect("a row for every op and instruction set")
}

/// One list for each kernel family.
static FAMILIES: &[&[Row]] = &[crate::tile::gemm::ROWS, crate::ops::ROWS];

/// Every kernel of this build, whether this machine can run it or not.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    FAMILIES.iter().copied().flatten()
}
