//! Models and the options of a session.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sluicegate_kernels::Isa;
use sluicegate_kernels::pool::Pool;

use crate::graph::{Dim, Graph};
use crate::plan::{self, Plan, PlanKey};
use crate::{Error, Result, Session, Shape, Tensor, View, import};

/// What a session does with gates and masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Samples leave at gates; dead channels are skipped.
    #[default]
    Skip,
    /// Every sample runs to the end and every channel is computed: the same kernels and the same results, without the savings. Gate scores
    /// and masks are computed, and masks multiplied, as a runtime that knows nothing of them would.
    Dense,
}

/// Options of a session.
#[derive(Clone)]
pub struct Options {
    /// What is done with gates and masks.
    pub mode: Mode,
    /// The instruction set; `None` = [`default_isa`].
    pub isa: Option<Isa>,
    /// Threads of the session's own pool; 1 = the calling thread. More need the feature `rayon`.
    pub threads: usize,
    /// The host's threads, instead of a pool of our own.
    pub pool: Option<Arc<dyn Pool + Send + Sync>>,
    /// Bytes that each of these may take: the results of one node, the constants that planning computes, the weights that it packs, the
    /// arena of a session, and its scratch.
    pub memory_limit: usize,
    /// Whether convolutions may be computed by Winograd's filtering, where it is estimated to be faster: for windows of 3 x 3 a quarter or 4/9 of
    /// the multiplications, with a rounding error of two to four times the direct algorithm's
    /// (see [`Conv`](sluicegate_kernels::ops::conv::Conv)). Without it, results are the same on every instruction set with FMA.
    pub winograd: bool,
    /// Whether runs record the time and the MACs of every node.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Skip,
            isa: None,
            threads: 1,
            pool: None,
            memory_limit: 1 << 30,
            winograd: true,
            trace: false,
        }
    }
}

/// The instruction set that is used when none is asked for: the best of this machine, or what the environment says.
///
/// `SLUICEGATE_ISA=avx2` pins: exactly this one, an error where it is missing. `SLUICEGATE_MAX_ISA=avx2` caps: the best one up to it.
///
/// # Errors
/// When a variable names an unknown instruction set, or the pinned one is missing.
pub fn default_isa() -> Result<Isa> {
    let read = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    Ok(match (read("SLUICEGATE_ISA"), read("SLUICEGATE_MAX_ISA")) {
        (Some(name), _) => Isa::named(&name)?,
        (None, Some(name)) => Isa::best_up_to(&name)?,
        (None, None) => Isa::best(),
    })
}

/// A gated model. Cheap to clone; sessions of one model share its graph and, for equal input shapes, its packed weights.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    graph: Graph,
    shape_inputs: Vec<bool>,
    plans: Mutex<Vec<Weak<Plan>>>,
}

impl Model {
    /// Reads an ONNX file; external data is looked for beside it.
    ///
    /// # Errors
    /// When the file cannot be read or is not a model that can be run. No file can make it panic or take memory that its bytes do not
    /// account for.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::from_graph(import::from_file(path.as_ref())?))
    }

    /// Reads an ONNX model without external data.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Ok(Self::from_graph(import::from_bytes(bytes, None)?))
    }

    /// A model made of a graph.
    pub fn from_graph(graph: Graph) -> Self {
        Self {
            inner: Arc::new(Inner {
                shape_inputs: plan::shape_inputs(&graph),
                graph,
                plans: Mutex::default(),
            }),
        }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.inner.graph
    }

    /// A session: the state to run the model, one run at a time.
    ///
    /// # Errors
    /// When the options ask for what is not there: an instruction set, threads without the feature `rayon`.
    pub fn session(&self, options: Options) -> Result<Session> {
        Session::new(self.clone(), options)
    }

    /// The plan for inputs of these shapes, in the order of the graph's inputs. Types are those that the model declares.
    ///
    /// # Errors
    /// When the shapes do not fit, an operator cannot be planned, or a shape depends on the value of an input.
    pub fn plan(&self, shapes: &[Shape], options: &Options) -> Result<Arc<Plan>> {
        let graph = self.graph();
        let zeros: Vec<Tensor> = graph
            .inputs
            .iter()
            .zip(shapes)
            .map(|(&id, &shape)| {
                let value = graph.value(id);
                let needed = shape.elements() * 8;
                if needed > options.memory_limit {
                    return Err(Error::TooLarge {
                        what: format!("input `{}`", value.name),
                        needed,
                        limit: options.memory_limit,
                    });
                }
                Ok(Tensor::zeros(
                    value.dtype.unwrap_or(crate::DType::F32),
                    shape,
                ))
            })
            .collect::<Result<_>>()?;
        let views: Vec<View<'_>> = zeros.iter().map(Tensor::view).collect();
        let isa = options.isa.map_or_else(default_isa, Ok)?;
        self.plan_for(&views, isa, options).map(|(plan, _)| plan)
    }

    /// The plan for these inputs, made anew or shared with a living session, and the number of samples.
    pub(crate) fn plan_for(
        &self,
        inputs: &[View<'_>],
        isa: Isa,
        options: &Options,
    ) -> Result<(Arc<Plan>, usize)> {
        let graph = self.graph();
        if inputs.len() != graph.inputs.len() {
            return Err(Error::Model(format!(
                "{} inputs for a model of {}",
                inputs.len(),
                graph.inputs.len()
            )));
        }
        for (view, &id) in inputs.iter().zip(&graph.inputs) {
            check_input(graph.value(id), *view)?;
        }
        let samples = self.samples(inputs);
        let apart = plan::separates(graph).then_some(samples);
        let key = PlanKey {
            inputs: inputs
                .iter()
                .map(|v| (v.dtype(), plan::sample_dims(v.shape(), apart)))
                .collect(),
            values: inputs
                .iter()
                .zip(&self.inner.shape_inputs)
                .map(|(view, decides)| decides.then(|| view.to_tensor()))
                .collect(),
            mode: options.mode,
            isa,
            memory_limit: options.memory_limit,
            winograd: options.winograd,
        };
        let mut plans = self
            .inner
            .plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        plans.retain(|plan| plan.strong_count() > 0);
        if let Some(plan) = plans
            .iter()
            .filter_map(Weak::upgrade)
            .find(|plan| plan.key == key)
        {
            return Ok((plan, samples));
        }
        let plan = Arc::new(Plan::new(graph, key)?);
        plans.push(Arc::downgrade(&plan));
        Ok((plan, samples))
    }

    /// Samples in a batch of these inputs: the first extent of the first input, for a model that keeps samples apart.
    pub(crate) fn samples(&self, inputs: &[View<'_>]) -> usize {
        match inputs.first().and_then(|v| v.shape().first().copied()) {
            Some(n) if plan::separates(self.graph()) => n,
            _ => 1,
        }
    }
}

/// Whether a tensor is what the model declares for an input.
fn check_input(value: &crate::graph::Value, view: View<'_>) -> Result<()> {
    let wrong = |what: String| Error::Input {
        input: value.name.clone(),
        what,
    };
    if let Some(dtype) = value.dtype
        && dtype != view.dtype()
    {
        return Err(wrong(format!(
            "holds {}, the model wants {dtype}",
            view.dtype()
        )));
    }
    if let Some(dims) = &value.dims {
        let fits = |(want, have): (&Dim, &usize)| !matches!(want, Dim::Fixed(n) if n != have);
        let shape = view.shape();
        if dims.len() != shape.rank() || !dims.iter().zip(shape.iter()).all(fits) {
            let want: Vec<String> = dims
                .iter()
                .map(|d| match d {
                    Dim::Fixed(n) => n.to_string(),
                    Dim::Symbol(name) => name.clone(),
                    Dim::Unknown => "?".into(),
                })
                .collect();
            return Err(wrong(format!(
                "has shape {shape}, the model wants [{}]",
                want.join(", ")
            )));
        }
    }
    Ok(())
}
