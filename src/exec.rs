//! Running a plan: step by step over the samples that are still in, leaving at gates.

mod arena;
mod attention;
mod blocks;
mod masks;
mod run;
mod step;

use std::sync::Arc;
use std::time::Instant;

use self::arena::Arena;
use self::step::Frame;
use crate::mask::BatchMask;
use crate::model::default_isa;
use crate::plan::step::Kernel;
use crate::plan::{Plan, at};
use crate::{Error, Model, Options, Result, View};
use sluicegate_kernels::pool::{Pool, Serial};

pub use self::run::{Macs, NodeTrace, Outcome, Outputs, Run, Trace};

/// The state to run a model, one run at a time: working storage, masks, threads.
///
/// The first run for inputs of new shapes plans and allocates; the runs after it allocate nothing.
pub struct Session {
    model: Model,
    options: Options,
    isa: sluicegate_kernels::Isa,
    pool: Option<Arc<dyn Pool + Send + Sync>>,
    plan: Option<Arc<Plan>>,
    state: State,
}

/// What changes from run to run.
#[derive(Default)]
struct State {
    arena: Arena,
    scratch: Vec<f32>,
    /// The live rows of the step at hand.
    rows: Vec<u32>,
    /// By mask, then sample.
    masks: Vec<BatchMask>,
    counts: Vec<Vec<usize>>,
    /// Where graph input `k` is found among the inputs of the run.
    order: Vec<usize>,
    /// Samples that have not left.
    active: Vec<u32>,
    /// Where each sample left, and after how many steps.
    exits: Vec<Option<Exit>>,
    samples: usize,
    macs: Macs,
    trace: Vec<NodeTrace>,
}

#[derive(Debug, Clone, Copy)]
struct Exit {
    gate: usize,
    score: f32,
    /// Steps that the sample took part in.
    steps: usize,
}

impl Session {
    pub(crate) fn new(model: Model, options: Options) -> Result<Self> {
        Ok(Self {
            isa: options.isa.map_or_else(default_isa, Ok)?,
            pool: pool_of(&options)?,
            model,
            options,
            plan: None,
            state: State::default(),
        })
    }

    /// The plan of the last run, or of [`Session::prepare`].
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_deref()
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Plans and allocates for inputs like these, so that the first run does not.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn prepare(&mut self, inputs: &[(&str, View<'_>)]) -> Result<()> {
        self.order_inputs(inputs)?;
        let first = self.state.order.first().map(|&i| inputs[i].1);
        let samples = self.model.samples(first.as_slice());
        let order = &self.state.order;
        let views = order.iter().map(|&i| inputs[i].1);
        if self
            .plan
            .as_ref()
            .is_some_and(|plan| plan.serves(views, samples))
            && self.state.samples == samples
        {
            return Ok(());
        }
        let views: Vec<View<'_>> = order.iter().map(|&i| inputs[i].1).collect();
        let (plan, samples) = self.model.plan_for(&views, self.isa, &self.options)?;
        self.state.fit(
            &plan,
            samples,
            self.pool.as_ref().map_or(1, |pool| pool.threads().max(1)),
            self.options.memory_limit,
        )?;
        self.plan = Some(plan);
        Ok(())
    }

    /// Runs the model on inputs by name, each with the batch along its first axis.
    ///
    /// # Errors
    /// [`Error::Input`] when an input is missing, unknown, or of another type or shape than the model wants; planning errors at the first
    /// run for these shapes. After an error the session can be used again.
    pub fn run<'a>(&'a mut self, inputs: &'a [(&'a str, View<'a>)]) -> Result<Run<'a>> {
        self.prepare(inputs)?;
        let plan = self.plan.as_deref().expect("prepared");
        let state = &mut self.state;
        let (isa, trace) = (self.isa, self.options.trace);
        let mut pass = Pass {
            frame: Frame {
                plan,
                inputs,
                isa,
                pool: match &self.pool {
                    Some(pool) => &**pool,
                    None => &Serial,
                },
            },
            state,
            trace,
        };
        pass.run()?;
        Ok(Run::new(plan, &self.state, inputs, trace))
    }

    /// Finds each input of the graph among those given.
    fn order_inputs(&mut self, inputs: &[(&str, View<'_>)]) -> Result<()> {
        let graph = self.model.graph();
        let wrong = |input: &str, what: String| Error::Input {
            input: input.to_owned(),
            what,
        };
        self.state.order.clear();
        for &id in &graph.inputs {
            let name = graph.value(id).name.as_str();
            let Some(i) = inputs.iter().position(|(n, _)| *n == name) else {
                return Err(wrong(name, "is missing".into()));
            };
            self.state.order.push(i);
        }
        if inputs.len() != graph.inputs.len() {
            let known = |name: &str| graph.inputs.iter().any(|&id| graph.value(id).name == name);
            let (name, _) = inputs
                .iter()
                .find(|(n, _)| !known(n))
                .unwrap_or(&inputs[inputs.len() - 1]);
            let names: Vec<&str> = graph
                .inputs
                .iter()
                .map(|&id| graph.value(id).name.as_str())
                .collect();
            return Err(wrong(
                name,
                format!(
                    "is not an input, or given twice; the inputs are {}",
                    names.join(", ")
                ),
            ));
        }
        Ok(())
    }
}

/// The threads of a session, if it is not the caller alone.
fn pool_of(options: &Options) -> Result<Option<Arc<dyn Pool + Send + Sync>>> {
    if options.pool.is_some() {
        return Ok(options.pool.clone());
    }
    match options.threads {
        0 | 1 => Ok(None),
        #[cfg(feature = "rayon")]
        n => Ok(Some(Arc::new(crate::Threads::new(n)?))),
        #[cfg(not(feature = "rayon"))]
        n => Err(Error::Model(format!(
            "{n} threads need the feature `rayon`, or a pool of the host's in `Options::pool`"
        ))),
    }
}

impl State {
    fn fit(&mut self, plan: &Plan, samples: usize, threads: usize, limit: usize) -> Result<()> {
        let needed = plan
            .arena
            .checked_mul(samples)
            .filter(|&n| n <= limit)
            .ok_or_else(|| Error::TooLarge {
                what: format!("the arena of {samples} samples"),
                needed: plan.arena.saturating_mul(samples),
                limit,
            })?;
        let mut scratch = 0;
        for s in &plan.steps {
            let len = step::scratch_len(plan.key.isa, s, samples, threads);
            let bytes = len.saturating_mul(size_of::<f32>());
            if bytes > limit {
                return Err(Error::TooLarge {
                    what: format!("the scratch of {}", plan.nodes()[s.node].label),
                    needed: bytes,
                    limit,
                });
            }
            scratch = scratch.max(len);
        }
        self.arena.resize(needed);
        self.scratch.resize(scratch.max(self.scratch.len()), 0.0);
        self.samples = samples;
        self.active = Vec::with_capacity(samples);
        let by_row = plan.steps.iter().filter_map(|step| step.masks.rows);
        let most = by_row.map(|mask| plan.masks.channels[mask.0]).max();
        self.rows = Vec::with_capacity(most.unwrap_or(0));
        self.exits = vec![None; samples];
        self.masks = plan
            .masks
            .channels
            .iter()
            .map(|&c| BatchMask::new(samples, c))
            .collect();
        self.counts = vec![vec![0; samples]; self.masks.len()];
        for i in 0..self.masks.len() {
            if let Some(mask) = plan.static_mask(i) {
                for s in 0..samples {
                    self.masks[i].set(s, |c| mask.contains(c));
                    self.counts[i][s] = mask.count();
                }
            }
        }
        self.trace = vec![NodeTrace::default(); plan.nodes().len()];
        Ok(())
    }
}

/// One run.
struct Pass<'a> {
    frame: Frame<'a>,
    state: &'a mut State,
    trace: bool,
}

impl Pass<'_> {
    fn run(&mut self) -> Result<()> {
        let state = &mut *self.state;
        state.active.clear();
        state.active.extend(0..state.samples as u32);
        state.exits.fill(None);
        state.macs = Macs {
            done: 0,
            dense: self.frame.plan.macs * state.samples as u64,
        };
        state.trace.fill(NodeTrace::default());
        for i in 0..self.frame.plan.steps.len() {
            if self.state.active.is_empty() {
                break;
            }
            let started = self.trace.then(Instant::now);
            let step = &self.frame.plan.steps[i];
            self.step(i)
                .map_err(|e| at(&self.frame.plan.nodes()[step.node].label, e))?;
            if let Some(started) = started {
                self.state.trace[step.node].ns += started.elapsed().as_nanos() as u64;
            }
        }
        Ok(())
    }

    fn step(&mut self, i: usize) -> Result<()> {
        let step = &self.frame.plan.steps[i];
        match &step.kernel {
            Kernel::Gate { threshold, index } => {
                self.gate(i, *threshold, *index);
                return Ok(());
            }
            Kernel::Linear { matmul, rows }
                if self.state.active.len() > 1 && self.frame.shares_rows(step) =>
            {
                self.frame.linear_of_all(step, matmul, *rows, self.state)?;
            }
            _ => {
                for a in 0..self.state.active.len() {
                    let sample = self.state.active[a] as usize;
                    self.frame.run(step, sample, self.state)?;
                }
            }
        }
        self.count(i);
        Ok(())
    }

    /// Samples whose score is below the threshold leave; the others go on in their places.
    fn gate(&mut self, i: usize, threshold: f32, gate: usize) {
        let step = &self.frame.plan.steps[i];
        let state = &mut *self.state;
        let source = step.inputs[0].expect("a gate reads its score");
        let (arena, order, samples, exits) =
            (&state.arena, &state.order, state.samples, &mut state.exits);
        state.active.retain(|&sample| {
            let bytes = self
                .frame
                .whole(source, sample as usize, samples, order, arena.bytes());
            let score = bytemuck::cast_slice::<u8, f32>(bytes)[0];
            let leaves = score < threshold;
            if leaves {
                exits[sample as usize] = Some(Exit {
                    gate,
                    score,
                    steps: i,
                });
            }
            !leaves
        });
    }

    fn count(&mut self, i: usize) {
        let step = &self.frame.plan.steps[i];
        let cost = step.cost;
        if cost.dense == 0 {
            return;
        }
        let state = &mut *self.state;
        let mut done = 0;
        for &sample in &state.active {
            let share = |mask: Option<crate::plan::masks::MaskId>, channels: usize| match mask {
                Some(id) if channels > 0 => {
                    (state.counts[id.0][sample as usize] as u64, channels as u64)
                }
                _ => (1, 1),
            };
            let (li, ci) = share(step.masks.input, cost.channels.0);
            let (lo, co) = share(step.masks.output, cost.channels.1);
            let (lr, cr) = share(step.masks.rows, cost.rows);
            done += cost.planned * li / ci * lo / co * lr / cr;
        }
        state.macs.done += done;
        state.trace[step.node].macs += done;
    }
}
