//! This program as `objdump` lists it: functions, their innermost loops, and what a loop consists of.

use std::fmt;
use std::process::Command;

/// A loop without a loop inside, as counts of its instructions.
#[derive(Clone)]
pub(crate) struct Loop {
    pub(crate) function: String,
    /// Address of the first instruction.
    pub(crate) at: u64,
    /// Fused multiplications and additions of whole vectors of the instruction set.
    pub(crate) fmas: usize,
    /// Those of narrower vectors and of scalars.
    pub(crate) narrow: usize,
    /// Broadcasts from memory, those folded into an FMA included; constants of the program left out.
    pub(crate) broadcasts: usize,
    /// FMAs that broadcast what two registers address: two operations each on Intel.
    pub(crate) indexed: usize,
    /// Broadcasts of a register: a load and its broadcast that did not become one.
    pub(crate) unfolded: usize,
    /// Vectors read from the stack.
    pub(crate) reloads: usize,
    /// Vectors written to the stack.
    pub(crate) spills: usize,
    /// Vectors written elsewhere.
    pub(crate) stores: usize,
    /// Instructions that are none of the FMAs.
    pub(crate) others: usize,
}

/// What functions compiled for AVX2 or AVX-512 consist of.
#[derive(Default)]
pub(crate) struct Listing {
    /// Their innermost loops with an FMA.
    pub(crate) loops: Vec<Loop>,
    /// Their instructions that use vector registers in the encoding of SSE: hundreds of cycles behind wider vectors, on some processors.
    pub(crate) legacy: Vec<String>,
}

pub(crate) fn listing() -> Listing {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new("objdump")
        .args(["--disassemble", "--demangle", "--no-show-raw-insn"])
        .arg(program)
        .output()
        .expect("objdump, of the binutils");
    assert!(output.status.success(), "objdump failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut found, mut name, mut body) = (Listing::default(), None, Vec::new());
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once(" <")
            && let Some(next) = rest.strip_suffix(">:")
        {
            collect(name.replace(next), &body, &mut found);
            body.clear();
        } else if let Some((at, text)) = line.split_once(":\t")
            && let Ok(at) = u64::from_str_radix(at.trim(), 16)
        {
            body.push((at, text));
        }
    }
    collect(name, &body, &mut found);
    found
}

/// Adds what there is of one function. An innermost loop is what a branch leads back over, when nothing inside does so.
fn collect(name: Option<&str>, body: &[(u64, &str)], found: &mut Listing) {
    let Some(name) = name else { return };
    let register = match name {
        _ if !name.contains("sluicegate_kernels::ops") => return,
        _ if name.contains("::avx512::") => "%zmm",
        _ if name.contains("::avx2::") => "%ymm",
        _ => return,
    };
    let legacy = |text: &&str| text.contains("%xmm") && !text.starts_with('v');
    let legacy = body.iter().map(|&(_, text)| text).filter(legacy);
    found
        .legacy
        .extend(legacy.map(|text| format!("{text} in {name}")));
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (end, (_, text)) in body.iter().enumerate() {
        let target = text.strip_prefix('j').and_then(|jump| {
            let address = jump.split_whitespace().nth(1)?;
            u64::from_str_radix(address, 16).ok()
        });
        let start = target.and_then(|at| body.binary_search_by_key(&at, |&(at, _)| at).ok());
        if let Some(start) = start.filter(|&start| start <= end) {
            ranges.push((start, end));
        }
    }
    for &(start, end) in &ranges {
        let inside = |&(s, e): &(usize, usize)| (s, e) != (start, end) && start <= s && e <= end;
        if ranges.iter().any(inside) {
            continue;
        }
        let mut counts = Loop {
            function: name.replace("sluicegate_kernels::", ""),
            at: body[start].0,
            fmas: 0,
            narrow: 0,
            broadcasts: 0,
            indexed: 0,
            unfolded: 0,
            reloads: 0,
            spills: 0,
            stores: 0,
            others: 0,
        };
        for (_, text) in &body[start..=end] {
            counts.add(text, register);
        }
        if counts.fmas + counts.narrow > 0 {
            found.loops.push(counts);
        }
    }
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} FMAs of full vectors and {} of others, {} broadcasts and {} of registers, {} vectors to the stack and {} back, {} written, \
             {} instructions beside FMAs, at {:x} in {}",
            self.fmas,
            self.narrow,
            self.broadcasts,
            self.unfolded,
            self.spills,
            self.reloads,
            self.stores,
            self.others,
            self.at,
            self.path()
        )
    }
}

impl Loop {
    /// The path of the function, without what it was compiled as: from `ops` on.
    pub(crate) fn path(&self) -> String {
        let from = self.function.rfind("featured::<").unwrap_or(0);
        let rest = &self.function[from..];
        let path = &rest[rest.find("ops::").unwrap_or(0)..];
        let isas = ["isa::avx512::", "isa::avx2::"];
        isas.iter()
            .fold(path.to_owned(), |path, isa| path.replace(isa, ""))
    }

    /// Counts an instruction in the syntax of AT&T: the destination is last.
    fn add(&mut self, text: &str, register: &str) {
        let text = text.split(['#', '<']).next().unwrap_or("").trim();
        let (op, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let fma = ["vfmadd", "vfmsub", "vfnmadd", "vfnmsub"]
            .iter()
            .any(|fma| op.starts_with(fma));
        let vector = operands.contains("mm"); // xmm, ymm, zmm
        let stack = operands.contains("(%rsp");
        let memory = operands.contains('(') && !operands.contains("(%rip");
        let stores = memory && operands.ends_with(')');
        let from_memory = memory && !stores;
        if fma && op.ends_with("ps") && operands.contains(register) {
            self.fmas += 1;
        } else {
            self.narrow += usize::from(fma);
            self.others += 1;
        }
        let broadcast = op.starts_with("vbroadcastss") || operands.contains("{1to");
        self.broadcasts += usize::from(broadcast && from_memory);
        let address = operands.split(['(', ')']).nth(1).unwrap_or("");
        self.indexed += usize::from(fma && broadcast && address.contains(','));
        self.unfolded += usize::from(op.starts_with("vbroadcastss") && !operands.contains('('));
        self.reloads += usize::from(vector && stack && !stores);
        self.spills += usize::from(vector && stack && stores);
        self.stores += usize::from(vector && !stack && stores);
    }
}
