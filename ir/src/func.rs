//! A function in decoded form: the shape in which a pass reads and builds programs.

use crate::infer::{InferError, infer};
use crate::memory::Memory;
use crate::op::{Binary, F64, Op, ReduceKind, Unary};
use crate::sharding::Sharding;
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where an op or a parameter comes from: the block of the model and the YAML line that asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Loc {
    /// Dotted module path, such as `model.layers.3.self_attn`; empty if none.
    pub block: Arc<str>,
    /// File of the YAML line; empty if none.
    pub file: Arc<str>,
    /// 1-based line, 0 if none.
    pub line: u32,
    /// 1-based column, 0 if none.
    pub col: u32,
}

/// Index of a value in its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// One op with its operands and results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Results, defined here.
    pub outputs: Vec<ValueId>,
    /// Where it comes from.
    pub loc: Loc,
}

/// How the elements of a new weight are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Init {
    /// Normal with mean 0, counter-based: f(seed, parameter name, global element index).
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// All elements equal.
    Constant {
        /// The element.
        value: f64,
    },
}

/// What a function parameter is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Role {
    /// Given anew each call: `tokens`, `labels`, `loss_mask`, or a per-step scalar such as `lr`.
    Input,
    /// A trained weight, addressed by its global (Hugging Face) name.
    Weight {
        /// First values when no checkpoint gives them.
        init: Init,
        /// Whether weight decay applies.
        decay: bool,
    },
    /// Optimizer state that lives between steps and starts at zero: moments.
    Moment,
    /// Gradient that `micro` leaves for `update`; zero before the first micro-batch when accumulating. The tokens of each
    /// expert, `expert_load.…`, are handed on in the same way.
    Grad,
    /// What the position before in a pipeline hands on; it lies in the slot of its micro-batch.
    Handed,
    /// What the slices of a micro-batch's sequences share in a stage of a pipeline: keys and values so far, sums of their
    /// gradients. A result of the same name replaces it, and the next slice finds it.
    Cache,
    /// What a router adds to scores when it chooses, f32 `[e]`: zero at first, saved and loaded like a weight, and moved by
    /// a rule instead of a gradient: `update` adds rate·sign(mean(load) − load). (arXiv 2408.15664.)
    ExpertBias {
        /// Name of the result of `micro` that counts the tokens of each expert, `expert_load.…`.
        load: String,
        /// How far a step moves it.
        rate: f64,
    },
}

/// A function parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Global name, unique in the function: `model.norm.weight`, `tokens`, `adam_m.model.norm.weight`, `grad.…`.
    pub name: String,
    /// The value it defines.
    pub value: ValueId,
    /// What it is for.
    pub role: Role,
    /// How it is spread over the mesh; its type is that of one rank's part.
    pub sharding: Sharding,
    /// Which memory it lies in: the optimizer's state may lie on the host.
    pub memory: Memory,
    /// YAML line or block.
    pub loc: Loc,
}

/// A function result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FuncResult {
    /// Name, unique among results. A result with the name of a [`Role::Weight`], [`Role::Moment`], [`Role::Grad`]
    /// or [`Role::Cache`] parameter of any function replaces that state in place.
    pub name: String,
    /// The value returned.
    pub value: ValueId,
}

/// A function: parameters, nodes in an order where operands come before their uses, results.
#[derive(Debug, Clone, PartialEq)]
pub struct Func {
    /// Name, unique in the module.
    pub name: String,
    /// Parameters.
    pub params: Vec<Param>,
    /// Body, in def-before-use order.
    pub nodes: Vec<Node>,
    /// Results.
    pub results: Vec<FuncResult>,
    /// Type of each value.
    pub types: Vec<TensorType>,
}

impl Func {
    /// An empty function.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), params: vec![], nodes: vec![], results: vec![], types: vec![] }
    }

    /// Type of `value`.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.types[value.0 as usize]
    }

    /// A fresh value of type `ty`; the caller makes a parameter or a node define it.
    pub fn new_value(&mut self, ty: TensorType) -> ValueId {
        self.types.push(ty);
        ValueId(self.types.len() as u32 - 1)
    }

    /// Adds a parameter.
    pub fn param(&mut self, name: impl Into<String>, ty: TensorType, role: Role, loc: Loc) -> ValueId {
        let value = self.new_value(ty);
        let (name, sharding, memory) = (name.into(), Sharding::default(), Memory::Device);
        self.params.push(Param { name, value, role, sharding, memory, loc });
        value
    }

    /// Adds a result.
    pub fn result(&mut self, name: impl Into<String>, value: ValueId) {
        self.results.push(FuncResult { name: name.into(), value });
    }

    /// The parameter called `name`.
    pub fn find_param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }

    /// The result called `name`.
    pub fn find_result(&self, name: &str) -> Option<&FuncResult> {
        self.results.iter().find(|r| r.name == name)
    }

    /// Appends a node whose result types are already known; they are not checked here but by the verifier.
    pub fn push(&mut self, op: Op, inputs: &[ValueId], types: Vec<TensorType>, loc: &Loc) -> Vec<ValueId> {
        let outputs: Vec<ValueId> = types.into_iter().map(|t| self.new_value(t)).collect();
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), loc: loc.clone() });
        outputs
    }

    /// Index of the node that defines each value; `None` for parameters.
    pub fn defs(&self) -> Vec<Option<usize>> {
        let mut defs = vec![None; self.types.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for o in &node.outputs {
                defs[o.0 as usize] = Some(i);
            }
        }
        defs
    }

    /// How often each value is read, results included.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut uses = vec![0; self.types.len()];
        let results = self.results.iter().map(|r| r.value);
        for v in self.nodes.iter().flat_map(|n| n.inputs.iter().copied()).chain(results) {
            uses[v.0 as usize] += 1;
        }
        uses
    }

    /// Values of results that are no gradients: what they need is the forward part.
    pub fn forward_results(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.results.iter().filter(|r| !r.name.starts_with("grad.")).map(|r| r.value)
    }

    /// Whether each node is needed for one of the values `wanted`.
    pub fn needed_for(&self, wanted: impl IntoIterator<Item = ValueId>) -> Vec<bool> {
        let mut live = vec![false; self.types.len()];
        wanted.into_iter().for_each(|v| live[v.0 as usize] = true);
        let mut needed = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if node.outputs.iter().any(|o| live[o.0 as usize]) {
                needed[i] = true;
                node.inputs.iter().for_each(|v| live[v.0 as usize] = true);
            }
        }
        needed
    }

    /// The same function without nodes whose results nobody needs.
    #[must_use]
    pub fn without_dead_nodes(&self) -> Self {
        let keep = self.needed_for(self.results.iter().map(|r| r.value));
        let mut out = self.clone();
        let mut kept = keep.iter();
        out.nodes.retain(|_| *kept.next().unwrap_or(&true));
        out
    }
}

/// Appends nodes to a function at one location, inferring result types.
///
/// Methods panic on ill-typed operands: the frontend checks configurations before it builds, and passes build only from
/// verified functions. [`Builder::op`] returns the inference error instead.
pub struct Builder<'a> {
    /// The function under construction.
    pub func: &'a mut Func,
    /// Location of the nodes to come.
    pub loc: Loc,
}

impl<'a> Builder<'a> {
    /// A builder at `loc`.
    pub fn new(func: &'a mut Func, loc: Loc) -> Self {
        Self { func, loc }
    }

    /// Type of `value`.
    pub fn ty(&self, value: ValueId) -> TensorType {
        self.func.ty(value).clone()
    }

    /// Appends any op whose result types follow from its operands.
    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, InferError> {
        let types = infer(&op, &inputs.iter().map(|v| self.ty(*v)).collect::<Vec<_>>())?;
        Ok(self.func.push(op, inputs, types, &self.loc))
    }

    fn one(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.many(op, inputs)[0]
    }

    /// As [`Builder::op`] for operands known to be well typed.
    pub fn many(&mut self, op: Op, inputs: &[ValueId]) -> Vec<ValueId> {
        let name = op.name();
        match self.op(op, inputs) {
            Ok(outputs) => outputs,
            Err(e) => panic!("ill-typed nn.{name} at {}: {e}", self.loc.block),
        }
    }

    fn typed(&mut self, op: Op, inputs: &[ValueId], ty: TensorType) -> ValueId {
        self.func.push(op, inputs, vec![ty], &self.loc)[0]
    }

    /// A tensor whose elements all equal `value`.
    pub fn constant(&mut self, value: f64, ty: TensorType) -> ValueId {
        self.typed(Op::Constant { value: F64(value) }, &[], ty)
    }

    /// Element-wise function.
    pub fn unary(&mut self, f: Unary, x: ValueId) -> ValueId {
        self.one(Op::Unary(f), &[x])
    }

    /// Element-wise function of two operands of equal type.
    pub fn binary(&mut self, f: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.one(Op::Binary(f), &[a, b])
    }

    /// a + b
    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(Binary::Add, a, b)
    }

    /// a · b
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(Binary::Mul, a, b)
    }

    /// `x` in `dtype`; `x` itself if it has it already.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> ValueId {
        let ty = self.ty(x);
        if ty.dtype == dtype { x } else { self.typed(Op::Cast, &[x], ty.with_dtype(dtype)) }
    }

    /// `x` under new dims of the same number of elements.
    pub fn reshape(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        let ty = self.ty(x).with_dims(dims);
        assert_eq!(ty.elements(), self.ty(x).elements(), "reshape keeps the elements");
        if ty == self.ty(x) { x } else { self.typed(Op::Reshape, &[x], ty) }
    }

    /// `x` repeated to `to`, operand dim i becoming result dim `dims[i]`.
    pub fn broadcast(&mut self, x: ValueId, dims: &[usize], to: &[usize]) -> ValueId {
        let ty = self.ty(x).with_dims(to);
        if ty == self.ty(x) { x } else { self.typed(Op::Broadcast { dims: dims.to_vec() }, &[x], ty) }
    }

    /// A value with fewer dims repeated over the leading dims of `like`: a bias or a scalar.
    pub fn broadcast_like(&mut self, x: ValueId, like: ValueId) -> ValueId {
        let (r, to) = (self.ty(x).rank(), self.ty(like).dims);
        let dims: Vec<usize> = (to.len() - r..to.len()).collect();
        self.broadcast(x, &dims, &to)
    }

    /// Sum or maximum over `dims`.
    pub fn reduce(&mut self, kind: ReduceKind, x: ValueId, dims: &[usize]) -> ValueId {
        if dims.is_empty() { x } else { self.one(Op::Reduce { kind, dims: dims.to_vec() }, &[x]) }
    }

    /// Contraction by einsum.
    pub fn einsum(&mut self, spec: &str, a: ValueId, b: ValueId) -> ValueId {
        self.one(Op::Einsum { spec: spec.to_owned() }, &[a, b])
    }

    /// `len` indices of `dim` from `start`.
    pub fn slice(&mut self, x: ValueId, dim: usize, start: usize, len: usize) -> ValueId {
        if len == self.ty(x).dims[dim] { x } else { self.one(Op::Slice { dim, start, len }, &[x]) }
    }
}
