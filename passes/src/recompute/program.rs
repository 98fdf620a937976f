//! What `recompute` and `offload` know of `micro`, or of a position of a pipeline: which nodes are forward, and which operator of which layer makes and reads a value.

use crate::blocks::absolute;
use athanor_ir::collective::{Collective, CollectiveKind};
use athanor_ir::func::{Func, Node, Param, Role, ValueId};
use athanor_ir::module::Module;
use athanor_ir::op::Op;
use athanor_ir::recompute::{layer_of, operator_path};
use athanor_ir::types::TensorType;

/// An operator of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Index into [`Program::layers`]; `None` outside of layers.
    pub layer: Option<usize>,
    /// Its path in the layer, the op's name last.
    pub path: String,
}

/// A function of micro-batches with what is known of it.
pub(crate) struct Program<'a> {
    pub module: &'a Module,
    pub func: &'a Func,
    /// Node that makes each value.
    pub defs: Vec<Option<usize>>,
    /// Whether a node is part of the forward pass: some result other than a gradient needs it.
    pub forward: Vec<bool>,
    /// Layers in the order of their first op, by block.
    pub layers: Vec<String>,
    /// By value: the operator that makes it, if a forward node does.
    pub makers: Vec<Option<Site>>,
    /// By value: the layers of the forward operators that read it.
    pub readers: Vec<Vec<Option<usize>>>,
    /// By value: whether a backward node reads it.
    pub kept: Vec<bool>,
    /// By value: the layers of the backward operators that read it.
    pub kept_for: Vec<Vec<Option<usize>>>,
    /// By value: whether it is a result.
    pub is_result: Vec<bool>,
}

impl<'a> Program<'a> {
    /// Reads the function `func` of `module`.
    pub fn of(module: &'a Module, func: &'a Func) -> Self {
        let count = func.types.len();
        let mut program = Self {
            module,
            func,
            defs: func.defs(),
            forward: forward(func),
            layers: vec![],
            makers: vec![None; count],
            readers: vec![vec![]; count],
            kept: vec![false; count],
            kept_for: vec![vec![]; count],
            is_result: vec![false; count],
        };
        func.results.iter().for_each(|r| program.is_result[r.value.0 as usize] = true);
        for (i, node) in func.nodes.iter().enumerate() {
            program.read(node, program.forward[i]);
        }
        program
    }

    /// The function that `node` calls.
    pub fn callee(&self, node: &Node) -> Option<&'a Func> {
        match &node.op {
            Op::Call { callee } => self.module.func(callee),
            _ => None,
        }
    }

    /// Floating-point operations of `node`.
    pub fn flops(&self, node: &Node) -> u64 {
        flops_of(self.module, self.func, node)
    }

    /// Floating-point operations of all nodes.
    pub fn all_flops(&self) -> u64 {
        self.func.nodes.iter().map(|n| self.flops(n)).sum()
    }

    /// Whether forward node `n`, of a layer, gathers a weight that replicas share, as it is or converted.
    pub fn gathers(&self, n: usize) -> bool {
        let node = &self.func.nodes[n];
        let made = |v: ValueId| self.defs[v.0 as usize].map(|d| &self.func.nodes[d]);
        let is_weight = |v: ValueId| {
            let shared = |p: &Param| p.value == v && matches!(p.role, Role::Weight { .. });
            self.func.params.iter().any(shared)
        };
        let Op::Collective(Collective { kind: CollectiveKind::AllGather { .. }, .. }) = node.op else { return false };
        let x = made(node.inputs[0]).filter(|n| n.op == Op::Cast).map_or(node.inputs[0], |n| n.inputs[0]);
        self.forward[n] && is_weight(x) && layer_of(&node.loc.block).is_some()
    }

    /// Takes in the operators of node `node`.
    fn read(&mut self, node: &Node, forward: bool) {
        if !forward {
            node.inputs.iter().for_each(|v| self.kept[v.0 as usize] = true);
        }
        let Some(callee) = self.callee(node) else {
            let site = self.site(&node.loc.block, &node.op);
            let readers = if forward { &mut self.readers } else { &mut self.kept_for };
            node.inputs.iter().for_each(|v| readers[v.0 as usize].push(site.layer));
            if forward {
                node.outputs.iter().for_each(|v| self.makers[v.0 as usize] = Some(site.clone()));
            }
            return;
        };
        for inner in &callee.nodes {
            let site = self.site(&absolute(&inner.loc.block, &node.loc.block), &inner.op);
            let readers = if forward { &mut self.readers } else { &mut self.kept_for };
            for (param, given) in callee.params.iter().zip(&node.inputs) {
                if inner.inputs.contains(&param.value) {
                    readers[given.0 as usize].push(site.layer);
                }
            }
            for (result, made) in callee.results.iter().zip(&node.outputs) {
                if forward && inner.outputs.contains(&result.value) {
                    self.makers[made.0 as usize] = Some(site.clone());
                }
            }
        }
    }

    fn site(&mut self, block: &str, op: &Op) -> Site {
        let Some((layer, rest)) = layer_of(block) else { return Site { layer: None, path: op.name().to_owned() } };
        let known = self.layers.iter().position(|l| l == layer);
        let index = known.unwrap_or_else(|| {
            self.layers.push(layer.to_owned());
            self.layers.len() - 1
        });
        Site { layer: Some(index), path: operator_path(rest, op.name()) }
    }
}

/// Nodes that a result other than a gradient needs, or the next position of a pipeline.
fn forward(func: &Func) -> Vec<bool> {
    let handover = |n: &&Node| matches!(n.op, Op::Handover { .. });
    let mut forward = func.needed_for(
        func.forward_results().chain(func.nodes.iter().filter(handover).flat_map(|n| n.inputs.iter().copied())),
    );
    for (flag, _) in forward.iter_mut().zip(&func.nodes).filter(|(_, n)| handover(n)) {
        *flag = true;
    }
    forward
}

/// Floating-point operations of a node of `func`; what is repeated counts once.
pub(crate) fn flops_of(module: &Module, func: &Func, node: &Node) -> u64 {
    let (Op::Call { callee } | Op::Repeat { callee }) = &node.op else { return flops(func, node) };
    module.func(callee).map_or(0, |callee| callee.nodes.iter().map(|n| flops_of(module, callee, n)).sum())
}

/// Floating-point operations of a node of `func` that is no call.
pub(crate) fn flops(func: &Func, node: &Node) -> u64 {
    let types = |values: &[ValueId]| values.iter().map(|v| func.ty(*v).clone()).collect::<Vec<TensorType>>();
    node.op.flops(&types(&node.inputs), &types(&node.outputs))
}
