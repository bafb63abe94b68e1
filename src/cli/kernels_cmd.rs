//! `sluicegate kernels`: what this build and this machine have.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use sluicegate::kernels::{Isa, table};

use super::report::{Align, Table};

pub(crate) fn kernels(out: &mut dyn Write) -> Result<()> {
    let active = sluicegate::default_isa()?;
    let available: Vec<Isa> = Isa::available().collect();
    writeln!(out, "instruction sets of this machine")?;
    for isa in &available {
        let mark = if *isa == active { "  active" } else { "" };
        writeln!(
            out,
            "  {:8}  {:2} floats a vector{mark}",
            isa.name(),
            isa.lanes()
        )?;
    }
    writeln!(
        out,
        "\nSLUICEGATE_MAX_ISA caps the choice, SLUICEGATE_ISA makes it (an error when the machine lacks it).\n"
    )?;

    let mut kernels = Table::new(&[
        ("kernel", Align::Left),
        ("operation", Align::Left),
        ("isa", Align::Left),
        ("tile", Align::Right),
        ("", Align::Left),
    ]);
    // By operation, in the order of the table; instruction sets within.
    let mut count = BTreeMap::<&str, usize>::new();
    for row in table::rows() {
        *count.entry(row.isa_name).or_default() += 1;
        let state = if row.isa_name == active.name() {
            "active"
        } else if available.iter().any(|isa| isa.name() == row.isa_name) {
            ""
        } else {
            "not on this machine"
        };
        let tile = match (row.mr, row.nr) {
            (0, _) | (_, 0) | (1, 1) => String::new(),
            (mr, nr) => format!("{mr}x{nr}"),
        };
        kernels.row([
            row.name.to_owned(),
            row.op.to_owned(),
            row.isa_name.to_owned(),
            tile,
            state.to_owned(),
        ]);
    }
    write!(out, "{}", kernels.render(""))?;
    let counts: Vec<String> = count.iter().map(|(isa, n)| format!("{n} {isa}")).collect();
    writeln!(
        out,
        "\n{} kernels: {}",
        table::rows().count(),
        counts.join(", ")
    )?;
    Ok(())
}
