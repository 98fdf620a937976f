//! The parts that decoders are made of, shared by all families.
//!
//! A block reads its sizes and switches from the [`ModelConfig`]; which blocks there are, under which names and in which
//! order is in the family's file under [`crate::model`].

mod attention;
pub mod decoder;
mod embedding;
mod experts;
mod init;
mod latent;
mod linear;
pub mod loss;
mod mlp;
mod norm;
pub mod rope;
mod router;

pub(crate) use init::training_name;
pub use init::{BAD_PATTERN, InitRules};
pub use linear::Layout;

use std::collections::HashMap;
use std::sync::Arc;

use athanor_ir::diag::{SourceFile, line_col};
use athanor_ir::{Builder, DType, Func, Init, Loc, Result, Role, TensorType, ValueId};

use crate::config::{Dtype, ModelConfig, Span};

/// A model under construction: the function, where in the model we are, and what is the same in all blocks.
pub struct Net<'a> {
    /// Appends nodes; its location is the current block.
    pub b: Builder<'a>,
    /// The description.
    pub m: &'a ModelConfig,
    /// Sequences in a batch.
    pub batch: usize,
    /// Dtype of matrix products.
    pub compute: DType,
    /// Dtype of the residual stream.
    pub residual: DType,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// What layers add to the loss, and the load of their experts.
    pub side: loss::Side,
    rules: InitRules,
    sources: &'a [Arc<SourceFile>],
    places: HashMap<Span, Loc>,
}

/// The dtype in IR.
pub(crate) fn dtype(d: Dtype) -> DType {
    match d {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}

impl<'a> Net<'a> {
    /// An empty model of `batch` sequences in `func`; spans of `m` point into `sources`.
    ///
    /// # Errors
    /// [`BAD_PATTERN`].
    pub fn new(func: &'a mut Func, m: &'a ModelConfig, sources: &'a [Arc<SourceFile>], batch: usize) -> Result<Self> {
        let rules = InitRules::new(m, sources)?;
        let compute = dtype(m.compute_dtype.value);
        let residual = if m.fp32_residual_connection.value { DType::F32 } else { compute };
        let b = Builder::new(func, Loc::default());
        let mut net = Self {
            b,
            m,
            batch,
            compute,
            residual,
            micro_batches: 1,
            side: loss::Side::default(),
            rules,
            sources,
            places: HashMap::new(),
        };
        net.place(m.span);
        Ok(net)
    }

    /// Names the YAML place that the nodes to come were asked for in; a default leaves the place of the block around.
    fn place(&mut self, span: Option<Span>) {
        let Some(span) = span else { return };
        let Some(source) = self.sources.get(span.file as usize) else { return };
        let found = self.places.entry(span).or_insert_with(|| {
            let (line, col) = line_col(&source.text, span.start as usize);
            Loc { block: "".into(), file: source.name.as_str().into(), line, col }
        });
        self.b.loc = Loc { block: Arc::clone(&self.b.loc.block), ..found.clone() };
    }

    /// Builds a block called `name` inside of the current one, asked for by the setting at `span`.
    pub fn scope<T>(&mut self, name: &str, span: Option<Span>, build: impl FnOnce(&mut Self) -> T) -> T {
        let around = self.b.loc.clone();
        let block = if around.block.is_empty() { name.to_owned() } else { format!("{}.{name}", around.block) };
        self.b.loc.block = block.into();
        self.place(span);
        let result = build(self);
        self.b.loc = around;
        result
    }

    /// The dims of activations: `[batch, sequence, width]`.
    pub fn activation(&self, width: usize) -> [usize; 3] {
        [self.batch, self.m.seq_length.value, width]
    }

    /// A weight of the current block, called `{block}.{name}`, in f32 whatever the compute dtype.
    ///
    /// Weights of rank 1 and biases do not decay. `init` yields to a rule of `param_init_std_rules`.
    pub fn weight(&mut self, name: &str, dims: &[usize], init: Init) -> ValueId {
        let decay = dims.len() > 1 && name != "bias";
        let name = format!("{}.{name}", self.b.loc.block);
        let loc = self.b.loc.clone();
        let init = self.rules.of(&name, init);
        let ty = TensorType::new(DType::F32, dims);
        self.b.func.param(name, ty, Role::Weight { init, decay }, loc)
    }

    /// Normal initial values of the model's standard deviation.
    pub fn normal(&self) -> Init {
        Init::Normal { std: self.m.init_method_std.value }
    }

    /// Normal initial values for the last projection before the residual stream: std/√(2·layers), so that the sum over
    /// layers keeps its variance.
    pub fn normal_before_residual(&self) -> Init {
        let layers = self.m.num_layers.value as f64;
        Init::Normal { std: self.m.init_method_std.value / (2.0 * layers).sqrt() }
    }

    /// x + y in the dtype of the residual stream.
    pub fn residual_add(&mut self, x: ValueId, y: ValueId) -> ValueId {
        let y = self.b.cast(y, self.residual);
        self.b.add(x, y)
    }

    /// `x` in the dtype of matrix products.
    pub fn to_compute(&mut self, x: ValueId) -> ValueId {
        self.b.cast(x, self.compute)
    }
}

/// Initial values all equal.
pub(crate) fn constant(value: f64) -> Init {
    Init::Constant { value }
}
